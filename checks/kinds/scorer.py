"""The interface of a scorer: a subclass of ``ScorerKind``, in one file of ``checks/scorers`` or of a user's package."""

import abc
from typing import Annotated, ClassVar

from checks.kinds.registry import Registry
from checks.records.sections import Section


class ScorerKind(Section, abc.ABC):
    """The parameters of a scorer in params.yaml, and how it scores.

    A scorer is pure: the same two texts always give the same score. Gates score every answer again, and use no score
    from a file. ``rank``: the position of the kind in lists; kinds of the same rank are sorted by name.
    ``reads_calls``: it reads calls of functions in the form of any model; a reference has them in one form.
    """

    rank: ClassVar[int] = 100
    reads_calls: ClassVar[bool] = False

    kind: str

    @abc.abstractmethod
    def score(self, prediction: str, reference: str) -> float:
        """A number from 0 to 1 for an answer; both texts have no surrounding white space.

        Raises ParamsRefused if the parameters cannot be used.
        """


SCORERS: Registry[ScorerKind] = Registry("lockstep.scorers", ScorerKind)
Scorer = Annotated[ScorerKind, SCORERS]
