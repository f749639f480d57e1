"""What a scorer is: a class below ``ScorerKind``, in one file of ``checks/scorers`` or in a package of a user."""

import abc
from typing import ClassVar

from checks.sections import Section


class ScorerKind(Section, abc.ABC):
    """The parameters of a scorer in params.yaml, and how it scores.

    A scorer is pure: the same two texts give the same score on every machine, at any time. Gates score every answer
    again, and believe no score that a file claims. ``rank`` is the kind's place where people read all kinds; kinds of
    one rank are in order of their names.
    """

    rank: ClassVar[int] = 100

    kind: str

    @abc.abstractmethod
    def score(self, prediction: str, reference: str) -> float:
        """A number from 0 to 1 for an answer; both texts come without white space around them.

        Raises ParamsRefused when the parameters cannot be used.
        """
