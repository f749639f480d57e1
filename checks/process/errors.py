"""Every refusal, with its exit code and what to do next.

A refusal is one line for a person: what was wrong (path, line, value), then the next step.
Codes 0 (done) and 1 (a bug: report it) are not refusals; 130 is an interrupt by the user.
"""


class Refusal(Exception):  # noqa: N818 - a refusal is a decision, not a malfunction
    """Bad input, or evidence that does not hold. Carries the problem and the remedy.

    ``what`` says what was wrong and where, ``todo`` what the reader does about it, ``others`` every
    further problem found at once, one line each.
    """

    exit_code: int

    def __init__(self, what: str, todo: str, others: tuple[str, ...] = ()) -> None:
        super().__init__(f"{what}; {todo}")
        self.what = what
        self.todo = todo
        self.others = others

    def __reduce__(self) -> tuple[type["Refusal"], tuple[str, str, tuple[str, ...]]]:
        """How it travels from another process."""
        return type(self), (self.what, self.todo, self.others)


class ParamsRefused(Refusal):
    """params.yaml cannot be read, or says something impossible."""

    exit_code = 2


class SourceRefused(Refusal):
    """A base model or data source is absent, unpinned, or not the pinned bytes."""

    exit_code = 3


class DataRefused(Refusal):
    """Rows cannot be prepared, or an expectation on the splits fails."""

    exit_code = 4


class TrainingRefused(Refusal):
    """Training cannot start, its loss is not finite or diverged, or nothing was rewarded."""

    exit_code = 5


class MergeRefused(Refusal):
    """The adapter cannot be merged, or merged and adapter logits disagree."""

    exit_code = 6


class EvaluationRefused(Refusal):
    """A prediction is missing, or a model or scorer cannot be evaluated."""

    exit_code = 7


class EvidenceRefused(Refusal):
    """Evidence is missing, stale, unreadable, or about other bytes."""

    exit_code = 8


class MachineRefused(Refusal):
    """This machine lacks a package, a tool, memory, disk or a device."""

    exit_code = 9


class VerdictFailed(Refusal):
    """The verdict is ``fail``."""

    exit_code = 10


class VerdictInconclusive(Refusal):
    """The verdict is ``inconclusive``: too little evidence either way."""

    exit_code = 11


class BuildRefused(Refusal):
    """An image cannot be built: no pinned base, too many layers, a shard that is too large."""

    exit_code = 12


class RegistryRefused(Refusal):
    """A registry does not answer, refuses, or has other bytes than it should."""

    exit_code = 13


class ServingRefused(Refusal):
    """A served model does not start, or fails a probe."""

    exit_code = 14


class PromotionRefused(Refusal):
    """An environment may not be moved; all failed checks are listed."""

    exit_code = 15


class Outrun(Refusal):
    """Somebody else moved the branch first."""

    exit_code = 16


class RemoteRefused(Refusal):
    """A git remote, GitHub or GitLab does not answer, refuses, or does not show a change that it accepted."""

    exit_code = 17


class Drifted(Refusal):
    """A mirror of git differs from it, or cannot be reached."""

    exit_code = 18


class Contradicted(Refusal):
    """Git contradicts itself about an environment, or an environment runs a quarantined release."""

    exit_code = 19
