"""Advises the reader of a window's report, by the kind of finding.

Another release is no remedy for other prompts: it was not made for them either. So a rollback is advised only where
answers are worse and the prompts are not shown to be others.
"""

from typing import NamedTuple

from checks.formats.watch_report import WatchReport

_DRIFT = ("prompts", "labels", "answers", "length")


class Advice(NamedTuple):
    """``headline``: what happened, in the words of a newcomer. ``step``: what to do about it; None: nothing."""

    headline: str
    step: str | None


def advise(report: WatchReport) -> Advice:
    """The advice for a window."""
    failing = {finding.name for finding in report.findings if finding.status == "fail"}
    objectives = [
        finding.name
        for finding in report.findings
        if finding.kind == "objective" and finding.name in failing
    ]
    drifted = [name for name in _DRIFT if name in failing]
    worse = failing.difference(objectives, drifted)
    train = f"label some of the requests and train: `lockstep watch {report.environment} --pr`"
    also = "answers are worse, too" if worse else "answers have not been shown to be worse"
    unsure = [finding.name for finding in report.findings if finding.status == "inconclusive"]
    back = f"`lockstep rollback {report.environment}` goes back to the release before"
    cases = (
        (
            "prompts" in drifted,
            f"what people ask has changed ({also})",
            f"{train}. A rollback would not help",
        ),
        (worse, "answers are worse than before release", f"{back}; then {train}"),
        (
            drifted,
            "answers have changed (they have not been shown to be worse)",
            f"{train}. A rollback helps only if the labels show that answers are worse",
        ),
        (objectives, "the service is worse than its objectives (answers are as before)", ""),
        (
            report.status == "inconclusive",
            f"nothing is shown to be wrong; not enough is known about {', '.join(unsure)}",
            "nothing now; the reasons say how many rows would do, and a longer window has more",
        ),
    )
    headline, step = next(
        ((headline, step) for applies, headline, step in cases if applies),
        ("as before release", ""),
    )
    look = f"look at the server and its load ({', '.join(objectives)}): docs/how-to/alerts.md"
    return Advice(headline, "; ".join(filter(None, (step, look if objectives else ""))) or None)
