"""data: what was checked of the data, as text, JSON and a page. The pictures are to be looked at."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from checks.formats.data_reports import DataReport, RuleCount
from checks.formats.verdict import Finding
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.cards import data_page
from release.cards.data_page import gather as data
from release.cli import main
from tests import browser, report_tree
from tests.conftest import REPOSITORY
from tests.release.verbs.test_report_picture import colours

pytestmark = pytest.mark.slow

ATTACK = "Show </td><script>alert(1)</script> \x1b[31m\u202e all disks of the resource group " + "web " * 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pull request whose data main has in a record that passed. Read-only by custom."""
    root = tmp_path_factory.mktemp("data") / "pr"
    report_tree.pull_request(root)
    report_tree.bad_data(root, ATTACK)
    return root


@pytest.fixture(scope="module")
def html(root: Path) -> str:
    return data_page.render(data(root))


def test_it_says_what_fails_and_what_was_dropped(root: Path) -> None:
    found = data(root)
    assert found.headline == "1 of 2 expectations fail: nothing is trained on these 268 rows"
    assert [each.name for each in found.failed] == ["train: prompts are unique"]
    before = data(root, "main")
    assert before.headline.endswith("expectations hold on 268 rows")
    assert (before.commit or "").isalnum()


def test_the_command_has_text_json_and_a_page(root: Path, tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(main, ["-C", str(root), "data"])
    assert done.exit_code == 0
    assert "  - ✗ train: prompts are unique: broken by 7 of 60 rows\n" in done.output
    assert re.search(r"^  train +60 +60  [0-9a-f]{12}$", done.output, re.MULTILINE)
    done = run.invoke(main, ["-C", str(root), "data", "main", "--json"])
    assert json.loads(done.output)["report"]["success"] is True
    done = run.invoke(main, ["-C", str(root), "data", "--html", str(tmp_path / "data.html")])
    assert done.output.splitlines() == [data(root).headline, str(tmp_path / "data.html")]
    assert (tmp_path / "data.html").read_text() == data_page.render(data(root))


def test_results_that_are_missing_or_about_other_splits_are_refused(root: Path, tmp_path: Path) -> None:
    report_tree.pull_request(tmp_path / "pr")
    path = tmp_path / "pr" / layout.DATA_REPORT
    report = files.read_json(path, DataReport)
    other = report.splits | {"test": digest.of_bytes(b"other")}
    files.write_json(path, report.model_copy(update={"splits": other}))
    with pytest.raises(EvidenceRefused, match=r"reports/data\.json: is about other splits than reports/prepare\.json"):
        data(tmp_path / "pr")
    path.unlink()
    report_tree.commit(tmp_path / "pr", "no results")
    for name in (".", "HEAD"):
        with pytest.raises(EvidenceRefused, match=r"reports/data\.json: "):
            data(tmp_path / "pr", name)
    with pytest.raises(EvidenceRefused, match="neither git nor the ledger knows such a record here"):
        data(root, "nowhere")


def test_the_page_loads_nothing_and_can_be_read(root: Path, html: str) -> None:
    assert "alert(" in html  # a row says it
    for page in (html, data_page.render(data(root, "main"))):
        browser.loads_nothing(page)
        browser.can_be_read(page)


def test_the_page_fits_a_phone_and_axe_finds_nothing_serious(html: str, tmp_path: Path) -> None:
    width, shown = browser.WIDTHS["phone"], tmp_path / "data.png"
    browser.picture(html, width, "light", shown)
    assert colours(shown) > 5, "nothing is to be seen"
    assert browser.wide(html, width, tmp_path) <= width, "a line is wider than the screen"
    assert list(browser.serious(html, "light", tmp_path)) == []


def test_the_funnel_leads_from_the_rows_read_to_the_rows_kept(root: Path) -> None:
    page = data(root)
    rules = (
        RuleCount(rule="fix-spaces", kind="fix", rows=60), RuleCount(rule="drop-empty", kind="drop", rows=0),
        RuleCount(rule="drop-doubles", kind="drop", rows=150), RuleCount(rule="cut", kind="drop", rows=50),
    )  # fmt: skip
    prepare = page.prepare.model_copy(update={"input_rows": 400, "kept_rows": 200, "dropped_rows": 200, "rules": rules})
    funnel = data_page._funnel(prepare)
    assert [(rule.rule, left, len(bar)) for rule, left, bar in funnel] == [
        ("fix-spaces", 400, 12), ("drop-doubles", 250, 8), ("cut", 200, 6),
    ]  # fmt: skip
    text = data_page.text_sections(page.model_copy(update={"prepare": prepare}))["rules"]
    assert "| `drop-doubles` | `████████` | 250 | −150 |" in text
    assert "Rules that changed no row: `drop-empty`." in text


def test_findings_about_the_rows_are_there_and_what_passes_is_folded(root: Path) -> None:
    page = data(root, "main")
    assert page.report.success
    assert {finding.kind for finding in data(REPOSITORY).findings} == {"contamination", "privacy"}
    html = data_page.render(page)
    folded = html.partition('id="expectations"')[2].partition("</section>")[0]
    assert folded.index("<details>") < folded.index("<table") < folded.index("</details>")
    bad = data_page.render(data(root)).partition('id="expectations"')[2].partition("</section>")[0]
    assert "<details>" not in bad
    finding = Finding(gate="test_is_unseen", kind="contamination", status="fail", reason="3 of 9 rows overlap")
    shown = data_page.sections(page.model_copy(update={"findings": (finding,)}))["gates"]
    assert shown == "- ✗ `test_is_unseen`: 3 of 9 rows overlap"
