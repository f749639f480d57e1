"""The interface of judges. A judge says what an answer to a row is worth, and another run of it may say otherwise.

A kind is one file of ``stages/judges``, or of a package of a user (entry points ``lockstep.judges``). It defines one
class below ``JudgeKind``: its fields are its parameters, ``judge`` asks it. The stage suites asks, on the runner. What
was said is recorded with the digest of the answer, and no gate asks again.
"""

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, NamedTuple

from checks.formats.suite_report import Judgement, Scale, SourceClass
from checks.kinds.registry import Registry
from checks.kinds.suite import Material
from checks.records.rows import Row
from checks.records.sections import Section, Source


class Asked(NamedTuple):
    """An answer to a row; ``sha`` is its digest, which the judgement must name.

    Where two answers are compared, ``answer`` is the one that is shown first, and ``other`` the second.
    """

    row: Row
    answer: str
    sha: str
    other: str | None = None
    other_sha: str | None = None


class JudgeKind(Section, abc.ABC):
    """The parameters of a judge in params.yaml, and how it is asked."""

    kind: str

    @property
    @abc.abstractmethod
    def evidence(self) -> SourceClass:
        """Return what its judgements rest on."""

    @property
    def compares(self) -> bool:
        """Whether it compares two answers; else it says what one answer is worth."""
        return False

    @property
    def sources(self) -> Mapping[str, Source]:
        """The pinned files that it reads, by name."""
        return {}

    @abc.abstractmethod
    def judge(
        self, asked: Sequence[Asked], scale: Scale, material: Material
    ) -> Iterable[Judgement]:
        """Judge each answer once. A judgement that is missing counts as one without a value.

        Raises EvaluationRefused when the judge cannot be asked, EvidenceRefused for a file that is no judgement.
        """


JUDGES: Registry[JudgeKind] = Registry("lockstep.judges", JudgeKind)
Judge = Annotated[JudgeKind, JUDGES]
