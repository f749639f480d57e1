"""Every refusal, with its exit code and what to do next.

A refusal is one line for a person: what was wrong (path, line, value), then the next step.
Codes 0 (done) and 1 (a bug: report it) are not refusals; 130 is an interrupt by the user.
"""

from collections.abc import Iterable


class Refusal(Exception):  # noqa: N818 - a refusal is a decision, not a malfunction
    """Bad input, or evidence that does not hold. Carries the problem and the remedy.

    ``what`` says what was wrong and where, ``todo`` what the reader does about it, ``others`` every
    further problem found at once, one line each.
    """

    exit_code: int

    def __init_subclass__(cls, exit_code: int | None = None) -> None:
        """Give the class its exit code; None keeps that of the class above it."""
        if exit_code is not None:
            cls.exit_code = exit_code

    def __init__(self, what: str, todo: str, others: tuple[str, ...] = ()) -> None:
        super().__init__(f"{what}; {todo}")
        self.what = what
        self.todo = todo
        self.others = others

    @classmethod
    def raise_for(cls, problems: Iterable[str], todo: str) -> None:
        """Raise one refusal that names every problem, or return if there are no problems."""
        if lines := [*problems]:
            raise cls(lines[0], todo, tuple(lines[1:]))

    def __reduce__(self) -> tuple[type["Refusal"], tuple[str, str, tuple[str, ...]]]:
        """How it travels from another process."""
        return type(self), (self.what, self.todo, self.others)


class ParamsRefused(Refusal, exit_code=2):
    """params.yaml cannot be read, or says something impossible."""


class SourceRefused(Refusal, exit_code=3):
    """A base model or data source is absent, unpinned, or not the pinned bytes."""


class DataRefused(Refusal, exit_code=4):
    """Rows cannot be prepared, or an expectation on the splits fails."""


class TrainingRefused(Refusal, exit_code=5):
    """Training cannot start, its loss is not finite or diverged, or nothing was rewarded."""


class MergeRefused(Refusal, exit_code=6):
    """The adapter cannot be merged, or merged and adapter logits disagree."""


class EvaluationRefused(Refusal, exit_code=7):
    """A prediction is missing, or a model or scorer cannot be evaluated."""


class EvidenceRefused(Refusal, exit_code=8):
    """Evidence is missing, stale, unreadable, or about other bytes."""


class MachineRefused(Refusal, exit_code=9):
    """This machine lacks a package, a tool, memory, disk or a device."""


class VerdictFailed(Refusal, exit_code=10):
    """The verdict is ``fail``."""


class VerdictInconclusive(Refusal, exit_code=11):
    """The verdict is ``inconclusive``: too little evidence either way."""


class BuildRefused(Refusal, exit_code=12):
    """An image cannot be built: no pinned base, too many layers, a shard that is too large."""


class RegistryRefused(Refusal, exit_code=13):
    """A registry does not answer, refuses, or has other bytes than it should."""


class ServingRefused(Refusal, exit_code=14):
    """A served model does not start, or fails a probe."""


class PromotionRefused(Refusal, exit_code=15):
    """An environment may not be moved; all failed checks are listed."""


class Outrun(Refusal, exit_code=16):
    """Somebody else moved the branch first."""


class RemoteRefused(Refusal, exit_code=17):
    """A git remote, GitHub, GitLab or a collector does not answer, refuses, or shows no change that it accepted."""


class Drifted(Refusal, exit_code=18):
    """A mirror of git differs from it, or cannot be reached."""


class Contradicted(Refusal, exit_code=19):
    """Git contradicts itself about an environment, or an environment runs a quarantined release."""
