"""A verdict with its evidence, and the refusal for a verdict other than a pass."""

from typing import NamedTuple

from checks.config.params import Params
from checks.formats.evidence import Evidence
from checks.formats.verdict import Verdict
from checks.process.errors import Refusal, VerdictFailed, VerdictInconclusive
from checks.storage import layout


class HeldVerdict(NamedTuple):
    """A verdict that holds, with its parameters and evidence."""

    params: Params
    evidence: Evidence
    verdict: Verdict


def refusal(verdict: Verdict) -> Refusal | None:
    """The refusal for a verdict other than ``pass``; None for ``pass``."""
    if verdict.status == "pass":
        return None
    undone = [f.gate for f in verdict.findings if f.status == verdict.status]
    kind = VerdictFailed if verdict.status == "fail" else VerdictInconclusive
    what = f"verdict {verdict.status}: {', '.join(undone) or 'no gate was evaluated'}"
    return kind(
        what,
        f"read the reasons in {layout.VERDICT}, change params.yaml or the data, and run `./lockstep run`",
    )
