"""What releases gained and forgot: where points lie in the picture, and which releases are not joined."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from checks import digest
from checks.formats.suite_report import SuiteResult
from release.cards import scatter
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


def test_a_point_lies_as_its_figures_do_up_for_more_and_right_for_more() -> None:
    at = scatter.of(trade((0.3, 0.1, ""), (0.1, 0.4, ""), (-0.2, -0.1, "")))
    first, second, third = at.marks
    assert third.x < first.x < second.x
    assert first.y < second.y < third.y  # the picture counts down
    across, up = at.zero
    assert across
    assert up
    assert third.x < across < first.x
    assert second.y < up < third.y
    left, top, wide, tall = at.frame
    for mark in at.marks:
        assert mark.wide
        assert mark.tall
        assert left < mark.wide[0] < mark.x < mark.wide[1] < left + wide
        assert top < mark.tall[1] < mark.y < mark.tall[0] < top + tall
    for ticks, figures in ((at.across, "x"), (at.up, "y")):
        assert 2 <= len(ticks) <= 6, figures
    known = {tick.said: tick.at for tick in at.across}
    assert known["0"] == pytest.approx(across)
    assert known["+0.2"] - known["0"] == pytest.approx((second.x - first.x) * 2 / 3)


def test_a_release_that_cannot_be_compared_is_not_joined() -> None:
    at = scatter.of(trade((0.3, 0.1, ""), (0.2, 0.1, "another test split"), (0.1, 0.2, "")))
    first, _, third = at.marks
    assert at.joins == ((first.x, first.y, third.x, third.y),)
    assert "3 releases, 2 of them comparable;" in at.said


@pytest.mark.parametrize("points", [[(0.0, 0.0, "")], [(0.3, 0.1, "")] * 2, [(1e-7, -1e5, "")]])
def test_points_that_are_alike_or_far_apart_have_a_place(points: list[tuple[float, float, str]]) -> None:
    at = scatter.of(trade(*points, spread=None))
    assert all(0 < place < 100 for mark in at.marks for place in (mark.x, mark.y))
    assert {(mark.wide, mark.tall) for mark in at.marks} == {(None, None)}


def test_names_do_not_overlap_and_the_newest_has_one() -> None:
    at = scatter.of(trade(*[(0.3 + 0.001 * (number % 7), 0.1 + 0.001 * (number % 5), "") for number in range(30)]))
    named = [mark for mark in at.marks if mark.named]
    assert at.marks[0].named
    assert 3 < len(named) < 30
    for one in named:
        for other in named:
            if one is not other and one.named == other.named:
                assert abs(one.y - other.y) > 5 or abs(one.x - other.x) > 4


def test_zero_is_in_the_picture_where_it_is_near() -> None:
    assert scatter.of(trade((0.30, 0.02, ""), (0.31, 0.05, ""))).zero[1] is None
    assert scatter.of(trade((0.30, 0.02, ""), (0.31, 0.05, ""))).zero[0] is not None
    assert None not in scatter.of(trade((0.3, 0.2, ""), spread=None)).zero  # one point alone says how far it is


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
