"""What releases gained and forgot: where their bars lie, and which suites are left out."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from checks.formats.suite_report import SuiteResult
from checks.storage import digest
from release.cards import bars
from release.cards import trade as trades
from release.cards.trade import Far, Point, Trade


def trade(*points: tuple[float, float, str], spread: float | None = 0.01) -> Trade:
    """Releases by gain, change, and why one cannot be compared."""

    def far(value: float) -> Far:
        return Far(value=value, low=None, high=None) if spread is None else Far(
            value=value, low=value - spread, high=value + spread
        )  # fmt: skip

    made = tuple(
        Point(version=f"v{number}", file=f"v{number}.html", gain=far(gain), change=far(change), why=why)
        for number, (gain, change, why) in enumerate(points)
    )
    return Trade(suite="english", metric="bits-per-byte", less=True, task="exact-match", points=made)


@pytest.mark.parametrize("spread", [0.01, None])
def test_bars_of_releases_are_on_one_scale_with_no_difference_in_one_place(spread: float | None) -> None:
    releases = trade((0.3, 0.1, ""), (-0.2, 0.4, ""), (1e-7, -1e5, "another suite"), spread=spread)
    gains = bars.together([point.gain for point in releases.points], 0.0, "+.3f")
    changes = bars.together([point.change for point in releases.points], 0.0, "+.3f")
    assert gains[1].value < gains[2].value < gains[0].value
    assert changes[2].value < changes[0].value < changes[1].value
    for column in (gains, changes):
        assert len({bar.bound for bar in column}) == 1
        assert all(0 < bar.low <= bar.value <= bar.high < 100 for bar in column)
        assert all((bar.low == bar.high) is (spread is None) for bar in column)


NOT_SHOWN: dict[str, dict[str, Any]] = {
    "no metric": {"means": {"candidate": {}, "base": {}}},
    "a base without a digest": {"models": {"candidate": digest.of_bytes(b"c")}},
    "no base": {"means": {"candidate": {"bits-per-byte": 1.0}}},
    "an unknown kind": {"kind": "nobody-has-it"},
}


@pytest.mark.parametrize("case", [None, *NOT_SHOWN])
def test_a_suite_that_an_edited_report_has_without_figures_is_left_out(case: str | None) -> None:
    one = digest.of_bytes(b"")
    whole: dict[str, Any] = {
        "kind": "loss", "asked": one, "source": "pure", "lines": one, "samples": 1, "files": {},
        "models": {"candidate": one, "base": one},
        "means": {"candidate": {"bits-per-byte": 1.0}, "base": {"bits-per-byte": 0.9}},
    }  # fmt: skip
    suite = SuiteResult.model_validate(whole | (NOT_SHOWN[case] if case else {}))
    side = SimpleNamespace(suites=SimpleNamespace(suites={"english": suite}), candidate=None)
    assert (trades._suite(cast(Any, side), "english") is suite) == (case is None)
