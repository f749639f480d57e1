"""In production: a release's page and REPORT.md show the windows that a verifier signed, and the rollbacks."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from checks.formats.pointer import Pointer
from checks.formats.watch_report import Costs, Service, WatchFinding, WatchReport
from checks.storage import layout
from release.cards import gathering, writing
from release.cards.release_page import Site
from release.evidence import keys, trust, windows
from release.verbs import page as pages
from release.verbs.card import card
from tests import browser, page_tree
from tests import promotion_tree as tree

pytestmark = pytest.mark.slow  # three releases are made

alone = tree.alone
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
NONE = "No window of production was signed yet."
HEAD = "| environment | from | to | verdict | requests | p50, s | p95, s | errors |"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.copy(page_tree.ledger(), tmp_path / "work")


def released(root: Path, version: str) -> Pointer:
    return next(page.pointer for page in gathering.gather(root, None).pages if page.version == version)


def a_report(release: Pointer, week: int = 0) -> WatchReport:
    """A window with labels and costs in week 0, and with neither in later ones."""
    quality = {"value": 0.812, "low": 0.78, "high": 0.84} if week == 0 else {}
    return WatchReport(
        environment="production", since=MONDAY + timedelta(weeks=week), until=MONDAY + timedelta(weeks=week + 1),
        version=release.version, model=release.model, commit=release.commit, status="fail", alpha=0.02, confidence=0.95,
        traffic=f"sha256:{'1' * 64}", reference={}, requests=12_345, prompts=9, labelled=3, notes=(),
        findings=(
            WatchFinding(name="prompts", kind="drift", status="fail", reason="other prompts"),
            WatchFinding(name="length", kind="proxy", status="pass", reason="as long"),
            WatchFinding(name="quality", kind="quality", status="pass", reason="as good", **quality),
        ),
        costs=Costs(per_1000_requests=0.25, requests=12_345, device_hours=3, estimated=False) if week == 0 else None,
        service=Service(errors=17, p50=0.4321, p95=1.5) if week == 0 else None,
    )  # fmt: skip


def sign(root: Path, report: WatchReport, by: str = "ada") -> Path:
    windows.write(root, report, trust.Signatory(keys.load(tree.key(root, by)), trust.known(root)))
    return root / windows.path(report)


def shown(root: Path, version: str) -> str:
    """The section of the write-up."""
    card(root, root / writing.FOLDER, version)
    text = (root / writing.FOLDER / writing.REPORT).read_text()
    return text.partition("## In production\n\n")[2].partition("\n\n## ")[0]


def test_signed_windows_are_in_the_write_up_the_latest_first(root: Path) -> None:
    release = released(root, "v0.2.0")
    assert shown(root, "v0.2.0") == f"{NONE}\n\nNobody rolled it back."
    for week in (0, 1):
        sign(root, a_report(release, week))
    table = shown(root, "v0.2.0").splitlines()
    assert table[0].startswith(HEAD)
    begun, first, second = "2026-03-02 00:00 UTC", "2026-03-09 00:00 UTC", "2026-03-16 00:00 UTC"
    assert table[2:4] == [
        f"| `production` | {first} | {second} | fail | 12,345 | – | – | – | – | – | prompts: fail |",
        f"| `production` | {begun} | {first} | fail | 12,345 | 0.432 | 1.5 | 17 | 0.25 | 0.812 [0.780, 0.840] | prompts: fail |",
    ]
    assert shown(root, "v0.1.0") == f"{NONE}\n\nNobody rolled it back."  # The windows are of another model.


def test_a_rollback_is_in_the_write_up_of_the_release_that_it_took_away(root: Path) -> None:
    text = shown(root, "v0.3.0")
    assert text.startswith(f"{NONE}\n\n- Rolled back in `staging` at 20")
    assert text.endswith(": `answers in French: « créer »`")


def test_a_record_that_is_no_release_has_no_rollbacks(root: Path) -> None:
    card(root, root / writing.FOLDER)
    text = (root / writing.FOLDER / writing.REPORT).read_text()
    assert f"## In production\n\n{NONE}\n\n## How it was made" in text


def _by_an_approver(root: Path, report: WatchReport) -> str:
    sign(root, report, "bob")
    return "verify"


def _by_a_stranger(root: Path, report: WatchReport) -> str:
    sign(root, report, "mallory")
    return "sign"


def _edited(root: Path, report: WatchReport) -> str:
    path = sign(root, report)
    path.write_text(path.read_text().replace('"payload":"', '"payload":"AAAA'))
    return "sign"


def _another_statement(root: Path, report: WatchReport) -> str:
    path = sign(root, report)
    shutil.copy(root / layout.SERVING_STATEMENT, path)
    return "predicateType is 'urn:lockstep:verification:v1', not urn:lockstep:window:v1"


@pytest.mark.parametrize("edit", [_by_an_approver, _by_a_stranger, _edited, _another_statement])
def test_a_window_that_no_verifier_signed_does_not_count_and_the_page_says_why(
    root: Path, edit: Callable[[Path, WatchReport], str]
) -> None:
    release = released(root, "v0.2.0")
    why = edit(root, a_report(release))
    (page,) = gathering.gather(root, "v0.2.0").pages
    assert page.production.windows == ()
    (note,) = [note for note in page.notes if note.startswith("a window does not count: reports/watch/production-2026")]
    assert why in note
    assert shown(root, "v0.2.0").startswith(NONE)


def test_a_page_has_its_windows_and_fits_every_screen(root: Path, tmp_path: Path) -> None:
    release = released(root, "v0.2.0")
    for week in (0, 1):
        sign(root, a_report(release, week))
    site: Site = gathering.gather(root, "v0.2.0")
    html = pages.release(site.pages[0], site)
    assert [report.since for report in site.pages[0].production.windows] == [MONDAY + timedelta(weeks=1), MONDAY]
    assert "0.812 [0.780, 0.840]" in html
    assert NONE not in html
    for width in browser.WIDTHS.values():
        assert browser.wide(html, width, tmp_path) <= width, "a line is wider than the screen"


def test_the_index_has_the_speed_and_the_cost_of_each_release_in_its_latest_window(root: Path, tmp_path: Path) -> None:
    sign(root, a_report(released(root, "v0.2.0")))
    html = pages.index(gathering.gather(root, None))
    rows = html.partition("Score by release")[2].partition("</table>")[0].split("<tr>")
    cells = [row.rpartition("</svg>")[2].partition("</tr>")[0].replace('<td class="number">', "") for row in rows[2:]]
    assert [cell.split() for cell in cells] == [
        ["</td>–</td>–</td>"], ["</td>1.5</td>0.25</td>"], ["</td>–</td>–</td>"]
    ]  # fmt: skip
    assert browser.wide(html, browser.WIDTHS["phone"], tmp_path) <= browser.WIDTHS["phone"]
