"""What a reader of a window should do: a table of situations."""

from datetime import UTC, datetime, timedelta

import pytest

from checks.formats.verdict import Status
from checks.formats.watch_report import Kind, WatchFinding, WatchReport
from release.monitoring.advice import advise

DIGEST = f"sha256:{'1' * 64}"
SINCE = datetime(2026, 3, 2, tzinfo=UTC)
KINDS: dict[str, Kind] = {
    "availability": "objective", "latency": "objective", "prompts": "drift", "labels": "drift", "answers": "drift",
    "length": "proxy", "valid labels": "proxy", "no refusals": "proxy", "quality": "quality",
}  # fmt: skip
SERVER = "look at the server and its load ({}): docs/how-to/alerts.md"
TRAIN = "label some of the requests and train: `lockstep watch production --pr`"
BACK = "`lockstep rollback production` goes back to the release before"


def _report(failing: tuple[str, ...], unsure: tuple[str, ...] = ()) -> WatchReport:
    def status(name: str) -> Status:
        return "fail" if name in failing else "inconclusive" if name in unsure else "pass"

    findings = tuple(
        WatchFinding(name=name, kind=kind, status=status(name), reason="as it is") for name, kind in KINDS.items()
    )
    return WatchReport(
        environment="production", since=SINCE, until=SINCE + timedelta(days=7), version="v0.1.0", model=DIGEST,
        commit="1" * 40, status="fail" if failing else "inconclusive" if unsure else "pass", alpha=0.02,
        confidence=0.95, traffic=DIGEST, reference={}, requests=9, prompts=9, labelled=0, findings=findings, costs=None,
        notes=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failing", "headline", "step"),
    [
        (("prompts",), "what people ask has changed (answers have not been shown to be worse)", TRAIN),
        (("prompts", "labels", "length"), "what people ask has changed (answers have not been shown", TRAIN),
        (("prompts", "quality"), "what people ask has changed (answers are worse, too)", TRAIN),
        (("prompts", "latency"), "what people ask has changed", f"not help; {SERVER.format('latency')}"),
        (("quality",), "answers are worse than before release", BACK),
        (("no refusals", "length"), "answers are worse than before release", BACK),
        (("labels",), "answers have changed (they have not been shown to be worse)", TRAIN),
        (("length",), "answers have changed", TRAIN),
        (("availability", "latency"), "the service is worse than", SERVER.format("availability, latency")),
        (("availability", "quality"), "answers are worse than before release", BACK),
    ],
)
def test_what_to_do_follows_from_what_changed_and_no_rollback_is_advised_for_other_prompts(
    failing: tuple[str, ...], headline: str, step: str
) -> None:
    advice = advise(_report(failing))
    assert advice.headline.startswith(headline)
    assert advice.step is not None
    assert step in advice.step
    assert ("A rollback would not help" in advice.step) == ("prompts" in failing)
    assert ("`lockstep rollback" in advice.step) == (step == BACK)
    assert ("docs/how-to/alerts.md" in advice.step) == bool({"availability", "latency"} & {*failing})


def test_a_window_that_passes_needs_nothing_and_one_that_cannot_tell_says_which_checks() -> None:
    assert advise(_report(())) == ("as before release", None)
    unsure = advise(_report((), ("prompts", "quality")))
    assert unsure.headline == "nothing is shown to be wrong; not enough is known about prompts, quality"
    assert "a longer window has more" in (unsure.step or "")
