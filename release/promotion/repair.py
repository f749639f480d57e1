"""Restores the files of an environment, and makes missing tags, where it runs the right release already."""

from functools import partial

from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.evidence.attached_statements import Released
from release.ledger import Change
from release.promotion import checklist, move_commit, requirements
from release.promotion import environment as environments
from release.promotion.checklist import CheckResult
from release.promotion.environment import EnvironmentState, folder
from release.promotion.types import PromotionContext


def repaired(
    context: PromotionContext, name: str, present: EnvironmentState, runs: Pointer
) -> tuple[Change, list[str]]:
    """Return the commit that restores the environment ``name``, which runs ``runs``, and a line for each changed file.

    Raises PromotionRefused if the release is in quarantine, EvidenceRefused if nobody who may sign signed its evidence.
    """
    check = partial(requirements.held_back, context, runs.digest, runs.model)
    if refused := checklist.refusal(
        f"{name} stays as it is; `lockstep rollback {name}` leaves the release",
        (checklist.run("quarantine", check),),
    ):
        raise refused
    signed = _signed(context, name, present, runs)
    result = CheckResult()
    environments.intact(context, name, present, result)
    tags = context.missing_tags()
    if not result.failures:
        return Change({}, "", tags), []
    files = move_commit.written(context, name, present, runs, signed)
    message = f"Write {name} again\n\n{runs.version}, as `lockstep promote` writes it.\n"
    return Change(files, message, tags), [failure.what for failure in result.failures]


def _signed(
    context: PromotionContext, name: str, present: EnvironmentState, runs: Pointer
) -> Released:
    """Check that someone who may sign, today or when it was moved there, signed the evidence that the pointer names."""
    envelope = present.files[folder(name) / layout.EVIDENCE]
    try:
        return environments.signed(context, name, runs, envelope, f"the evidence of {name}")
    except EvidenceRefused as refused:
        raise EvidenceRefused(
            f"{name} runs {runs.image}, and no current signer signed its evidence: {refused.what}",
            f"see who moved it (`lockstep history {name}`), then `lockstep rollback {name}`, or promote another image",
        ) from refused
