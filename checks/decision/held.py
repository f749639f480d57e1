"""A verdict with its evidence, and the refusal for a verdict other than a pass.

Here alone is decided whether an exception of an emergency excuses a verdict. It excuses gates that were measured and
did not pass, if they are of a kind that may be excepted, and if the exception names every gate that did not pass.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from checks.config.release_params import EXCUSABLE
from checks.formats.verdict import Finding, Verdict
from checks.process.errors import Refusal, VerdictFailed, VerdictInconclusive
from checks.records.record import problems
from checks.storage import layout

if TYPE_CHECKING:
    from checks.config.params import Params
    from checks.formats.evidence import Evidence


class HeldVerdict(NamedTuple):
    """A verdict that holds, with its parameters and evidence."""

    params: "Params"
    evidence: "Evidence"
    verdict: Verdict


def not_passed(verdict: Verdict) -> tuple[Finding, ...]:
    """Return the findings that keep a verdict from being ``pass``."""
    return tuple(finding for finding in verdict.findings if finding.status != "pass")


def unexcused(finding: Finding, excepted: Collection[str]) -> str:
    """Return why an exception that names the gates ``excepted`` does not excuse this finding; empty if it does."""
    reasons = problems(
        (finding.gate not in excepted, "is not among the gates that may be excepted"),
        (
            finding.kind not in EXCUSABLE,
            f"is of kind {finding.kind}, which nobody may except",
        ),
        # A gate without evidence, or with evidence about other bytes, has no figure.
        (finding.value is None, "measured nothing"),
    )
    return next(reasons, "")


def refusal(verdict: Verdict, excepted: Collection[str] = ()) -> Refusal | None:
    """Return the refusal for a verdict other than ``pass``; None for ``pass``.

    ``excepted``: the gates that a valid exception names. None too if it excuses every gate that did not pass.
    """
    if verdict.status == "pass":
        return None
    undone = not_passed(verdict)
    if undone and not any(unexcused(finding, excepted) for finding in undone):
        return None
    names = [finding.gate for finding in undone if finding.status == verdict.status]
    kind = VerdictFailed if verdict.status == "fail" else VerdictInconclusive
    return kind(
        f"verdict {verdict.status}: {', '.join(names) or 'no gate was evaluated'}",
        f"read the reasons in {layout.VERDICT}, change params.yaml or the data, and run `./lockstep run`",
    )
