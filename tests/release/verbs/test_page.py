"""page: the pages of releases, as values, as text, and as a browser shows them. The pictures are to be looked at."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from checks.config import params_file
from checks.config.params import Params
from checks.formats import pointer
from checks.formats.evaluation_reports import Interval
from checks.process.errors import EvidenceRefused, MachineRefused, ParamsRefused
from checks.storage import digest, layout
from release.cards import bars, card_facts, gathering
from release.cards.release_page import ReleasePage, Site
from release.cli import main
from release.pages import html
from release.verbs import page as sites
from release.verbs.page import page
from tests import browser, page_tree
from tests import promotion_tree as tree
from tests.ledger_tree import at, keep
from tests.release.verbs.test_report_picture import colours

pytestmark = pytest.mark.slow  # three releases are made

alone = tree.alone


@pytest.fixture(scope="module")
def ledger() -> Path:
    """The clone with the releases. Read-only by custom."""
    return page_tree.ledger()


@pytest.fixture(scope="module")
def site(ledger: Path) -> Site:
    return gathering.gather(ledger, None)


@pytest.fixture
def root(ledger: Path, tmp_path: Path) -> Path:
    return tree.copy(ledger, tmp_path / "work")


def of(site: Site, version: str) -> ReleasePage:
    return next(each for each in site.pages if each.version == version)


def test_every_release_has_a_page_the_last_first(site: Site) -> None:
    assert [(each.version, each.file, each.before) for each in site.pages] == [
        ("v0.3.0", "v0.3.0.html", "v0.2.0"), ("v0.2.0", "v0.2.0.html", "v0.1.0"), ("v0.1.0", "v0.1.0.html", None)
    ]  # fmt: skip
    assert site.environments == {"staging": "v0.2.0", "production": "v0.2.0"}
    assert site.left_out == ()
    assert {each.verdict.status for each in site.pages} == {"pass"}
    assert {each.signer for each in site.pages} == {"ada"}


def test_a_page_says_where_the_release_runs_who_moved_it_and_why(site: Site) -> None:
    homes = [(each.environment, each.kind, each.by, each.why) for each in of(site, "v0.2.0").homes]
    assert homes == [
        ("staging", "rollback", "Ada <ada@example.org>", page_tree.BAD),
        ("production", "promote", "Ada <ada@example.org>", page_tree.WHY),
    ]
    assert of(site, "v0.1.0").homes == of(site, "v0.3.0").homes == ()
    assert [each.quarantined for each in site.pages] == [page_tree.BAD, None, None]
    assert [(move.environment, move.kind) for move in of(site, "v0.2.0").moves] == [
        ("staging", "rollback"), ("production", "promote"), ("staging", "promote"),
    ]  # fmt: skip


def test_figures_are_beside_the_release_before_production_the_best_baseline_and_the_base(site: Site) -> None:
    found: dict[str, Any] = {
        each.what: each.difference and (each.difference.value, each.difference.n) for each in of(site, "v0.2.0").against
    }
    assert found == {
        "v0.1.0, the release before": (pytest.approx(3 / 40), 40),
        "Naive Bayes, the best cheap baseline": (pytest.approx(16 / 40), 40),
        "the base model": (pytest.approx(31 / 40), 40),
    }
    assert of(site, "v0.3.0").against[0].what == "v0.2.0, the release before, which production runs"
    first = of(site, "v0.1.0").against[0]
    assert first.what == "v0.2.0, which production runs"
    assert first.difference
    assert first.difference.value == pytest.approx(-3 / 40)


def test_a_page_says_what_changed_since_the_release_before(site: Site) -> None:
    page = of(site, "v0.2.0")
    assert page.comparison
    changed = {each.what: (each.a, each.b) for each in page.comparison.parameters}
    assert changed["train.lora.r"] == ("4", "16")
    assert page.policy
    assert {(each.path, each.kind) for each in page.policy} == {
        ("evaluate.max_new_tokens", "changed"), ("gates.routes_well.at_least", "stronger"),
        ("suites.english.precision", "changed"),
    }  # fmt: skip
    assert [(each.path, each.kind) for each in of(site, "v0.3.0").policy or ()] == [
        ("gates.routes_well.at_least", "weaker")
    ]
    assert len(page.comparison.answers) == 3
    assert of(site, "v0.1.0").comparison is None


def test_a_page_has_the_commands_to_try_verify_and_leave_it(site: Site, ledger: Path) -> None:
    page = of(site, "v0.2.0")
    assert f"docker run --rm -p 127.0.0.1:8000:8000 HOST/{site.name}@{page.pointer.digest}" in page.tries
    assert page.tries[-1].startswith("curl http://127.0.0.1:8000/v1/chat/completions ")
    assert page.checks[0].startswith(f"./lockstep evidence show {page.pointer.image} ")
    assert page.rollbacks == (
        './lockstep rollback staging --to v0.1.0 --why "…"', './lockstep rollback production --to v0.1.0 --why "…"'
    )  # fmt: skip
    held_back = of(site, "v0.3.0")  # it is in quarantine
    assert (held_back.rollbacks, held_back.tries) == ((), ())
    parts = {each.what: each.digest for each in page.parts}
    assert parts["image"] == page.pointer.digest
    assert parts["weights"] == page.pointer.model == page.verdict.model
    assert parts["signed statement"] == page.pointer.evidence
    images = (page.image.model_copy(update={"runtime": name}) for name in ("tgi", "vllm", "of another version"))
    servers = {image.runtime: gathering._archived(ledger, image) for image in images}
    assert servers == {
        "tgi": ", archived on 2026-03-21; its last release is 3.3.7",
        "vllm": "",
        "of another version": "",
    }


def test_a_release_in_quarantine_is_so_first_and_nobody_is_told_to_run_it(site: Site) -> None:
    shown, index = rendered(site, "v0.3.0"), rendered(site, "index")
    first = f"🚫 Quarantined: {page_tree.BAD}"
    todo = "<strong>Do:</strong> run another release."
    assert first in shown.partition("<nav")[0]
    assert "verdict pass" not in shown.partition("<nav")[0]
    assert todo in shown.partition("<nav")[0]
    assert "docker run" not in shown.partition('id="evidence"')[0]
    assert first in index


def test_a_page_has_the_cards_of_its_release_and_says_why_if_it_has_none(site: Site, root: Path) -> None:
    page, shown = of(site, "v0.2.0"), rendered(site, "v0.2.0")
    assert {name: text.count("\n## ") for name, text in page.cards.items()} == {"Model card": 7, "Data card": 7}
    for text in (
        "<h4>Intended use</h4>",
        "<h4>Licences and duties</h4>",
        "<h4>Where it comes from</h4>",
        "<h4>Rules</h4>",
    ):
        assert text in shown
    for wrong in ("\n<caption>.", "&lt;!--", "1 expectations", "1 files", "1 epochs"):
        assert wrong not in shown
    # The prose of a release is that of its commit.
    (root / card_facts.MODEL).unlink()
    keep(root, "no prose")
    assert of(gathering.gather(root, None), "v0.2.0").cards == page.cards


def test_a_release_whose_parameters_this_version_refuses_has_a_page_without_cards(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = params_file.check

    def check(parsed: params_file.Parsed) -> Params:
        if "v0.2.0" in parsed.name:
            raise ParamsRefused("params.yaml of v0.2.0: later: missing", "add it")
        return read(parsed)

    monkeypatch.setattr(params_file, "check", check)
    page = of(gathering.gather(root, "v0.2.0"), "v0.2.0")
    assert page.cards == {}
    assert "no cards: params.yaml of v0.2.0: later: missing" in page.notes


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n"),
        ("[a](https://x.example) ![b](x.png)", "<p>[a](https://x.example) ![b](x.png)</p>\n"),
        ("<https://x.example> &#x202e;", "<p>&lt;https://x.example&gt; &amp;#x202e;</p>\n"),
        ("a\x1b\u202eb", "<p>a\ufffd⟨U+202E RIGHT-TO-LEFT OVERRIDE⟩b</p>\n"),
        ("## *One* <b>\n### Two", "<h4><em>One</em> &lt;b&gt;</h4>\n<h5>Two</h5>\n"),
        ("▲ `▼`", '<p><span class="better">▲</span> <code>▼</code></p>\n'),
    ],
)
def test_a_card_can_load_nothing_and_hide_nothing(text: str, shown: str) -> None:
    assert html.of_markdown(text, 3) == shown


def test_a_table_of_a_card_has_a_caption_and_its_numbers_stand_right() -> None:
    found = html.of_markdown("## A `b` <i>\n\n| x | y |\n| --- | ---: |\n| 1 | 2 |", 3)
    assert "<caption>A b &lt;i&gt;.</caption>" in found
    assert '<th scope="col">x</th>\n<th class="number" scope="col">y</th>' in found
    assert '<td>1</td>\n<td class="number">2</td>' in found


def test_suites_are_beside_the_base_and_a_loss_that_rose_is_worse(site: Site) -> None:
    (english,) = of(site, "v0.2.0").suites
    assert english.what == "english: bits-per-byte"
    assert english.difference
    assert english.difference.low < english.difference.value < english.difference.high
    assert isinstance(english.ours, float)
    assert isinstance(english.theirs, float)
    assert english.difference.value == pytest.approx(english.ours - english.theirs, abs=0.01)
    html = rendered(site, "v0.2.0")
    shown = html[html.index("english: bits-per-byte") :].partition("</li>")[0]
    assert ("▼ worse" in shown) is (english.difference.low > 0)
    assert "<svg" in shown
    assert "Of a loss" in html


def test_the_bar_of_a_gate_shades_the_side_that_passes(site: Site) -> None:
    found = {each.gate: bars.of_gate(each) for each in of(site, "v0.2.0").verdict.findings}
    assert found["licences_agree"] is None  # it has no figure
    assert found["fits_the_budget"] is None  # 0.015 of 450 megabytes are next to nothing
    above, below = found["routes_well"], found["merge_is_faithful"]
    assert above
    assert below
    assert above.passes == (above.bound, 100.0)
    assert above.bound < above.low < above.value < above.high
    assert below.passes == (0.0, below.bound)
    assert below.value < below.bound


def test_better_is_to_the_right_of_every_line_and_no_difference_in_its_middle(site: Site) -> None:
    page = of(site, "v0.2.0")
    far, near = bars.of_differences(page.against[:2])
    assert far
    assert near
    for beside, bar in zip(page.against, (far, near), strict=False):
        assert beside.difference
        assert bar.bound == pytest.approx(50)
        assert bar.value == pytest.approx(50 + (near.value - 50) * beside.difference.value / 0.4)
        assert bar.ends[0].startswith("−")
    (loss,) = bars.of_differences(page.suites)  # more bits per byte are worse
    assert loss
    assert loss.high < loss.bound
    assert loss.ends[0].startswith("+")
    unknown = page.against[0].model_copy(update={"difference": None})
    assert bars.of_differences([unknown]) == [None]


def test_the_lineage_leads_from_the_sources_to_the_environments(site: Site) -> None:
    page = of(site, "v0.2.0")
    assert {stage: [part.what for part in parts] for stage, parts in page.lineage.items()} == {
        "fetched": ["base model", "raw data"],
        "prepared": ["test split", "train split", "valid split"],
        "trained": ["adapter"],
        "merged": ["weights"],
        "judged": ["verdict", "evaluation"],
        "built and signed": ["image", "signed statement"],
        "promoted to": ["staging", "production"],
    }
    assert [part.what for part in of(site, "v0.1.0").lineage["promoted to"]] == ["nowhere"]
    shown = rendered(site, "v0.2.0").partition('class="lineage"')[2].partition("</ol>")[0]
    for parts in page.lineage.values():
        for part in parts:
            assert part.what in shown
            assert part.digest is None or part.digest.removeprefix("sha256:")[:12] in shown


def test_the_first_release_shows_the_rows_that_it_gets_wrong(site: Site) -> None:
    page = of(site, "v0.1.0")
    assert [row.mistake for row in page.mistakes] == ["another answer"] * 7
    assert {(row.a, row.score_a) for row in page.mistakes} == {(None, None)}
    assert "v0.1.0 gets 7 rows wrong." in rendered(site, "v0.1.0")
    assert of(site, "v0.2.0").mistakes == ()


def test_the_index_shows_what_releases_gained_and_forgot_and_says_what_cannot_be_compared(site: Site) -> None:
    (trade,) = site.trades
    assert (trade.suite, trade.metric, trade.less, trade.task) == ("english", "bits-per-byte", True, "exact-match")
    newest, second, first = trade.points
    assert [each.version for each in trade.points] == ["v0.3.0", "v0.2.0", "v0.1.0"]
    assert [each.why for each in trade.points] == ["", "", "another suite"]
    assert first.change.value < second.change.value < newest.change.value
    for each in trade.points:
        for far in (each.gain, each.change):
            assert far.low is not None
            assert far.high is not None
            assert far.low < far.value < far.high
    beside = next(each for each in of(site, "v0.2.0").against if each.what == "the base model")
    assert beside.difference
    assert second.gain.value == beside.difference.value
    html = sites.index(site)
    assert html.count("not comparable: another suite") == 1
    assert html.partition("What each release gained")[2].count('<svg class="bar"') == 6


def test_the_index_shows_the_score_of_each_release_beside_what_production_runs(site: Site) -> None:
    spread = {"v0.3.0": (0.6, 0.5, 0.7), "v0.2.0": (0.8, 0.7, 0.85), "v0.1.0": (0.4, 0.1, 0.5)}

    def of_four_rows(page: ReleasePage) -> ReleasePage:
        value, low, high = spread[page.version]
        score = Interval(value=value, low=low, high=high, n=4)
        return page.model_copy(
            update={"against": tuple(each.model_copy(update={"ours": score}) for each in page.against)}
        )

    table = bars.score_table(site.model_copy(update={"pages": tuple(map(of_four_rows, site.pages))}))
    assert table is not None
    assert (table.metric, table.line) == ("exact-match", "v0.2.0, which production runs")
    assert [release.page.version for release in table.releases] == ["v0.3.0", "v0.2.0", "v0.1.0"]
    assert {release.unlike for release in table.releases} == {""}
    newest, runs, first = table.releases
    assert newest.bar.bound == runs.bar.bound == runs.bar.value == first.bar.bound
    places = [place for release in table.releases for place in (release.bar.value, release.bar.low, release.bar.high)]
    figures = [figure for release in table.releases for figure in spread[release.page.version]]
    scale = (places[1] - places[0]) / (0.5 - 0.6)
    zero = places[0] - 0.6 * scale
    assert places == pytest.approx([zero + scale * figure for figure in figures])
    assert min(places) > 0
    assert max(places) < 100
    shown = sites.index(site).partition("Score by release")[2].partition("What each release gained")[0]
    assert shown.count('<svg class="bar"') == 3
    assert '<a href="v0.2.0.html">v0.2.0</a> <span class="quiet">in staging, production</span>' in shown
    assert "p95" not in shown  # nothing was watched


def test_scores_on_another_test_split_or_by_another_metric_say_so(site: Site) -> None:
    newest, second, first = site.pages
    asked_anew = newest.model_copy(update={"test": digest.of_bytes(b"other rows")})
    unlike = [beside.model_copy(update={"metric": "f1"}) for beside in first.against]
    other_metric = first.model_copy(update={"against": tuple(unlike)})
    table = bars.score_table(site.model_copy(update={"pages": (asked_anew, second, other_metric)}))
    assert table is not None
    assert [release.unlike for release in table.releases] == ["", "another test split", "scored by f1"]
    nowhere = site.model_copy(update={"environments": {"staging": None, "production": None}})
    table = bars.score_table(nowhere)
    assert table is not None
    assert table.line == "v0.3.0, the newest"
    assert bars.score_table(site.model_copy(update={"pages": ()})) is None


def _another_model(root: Path) -> str:
    """Somebody edits what staging runs."""
    path = root / at("staging")
    found = pointer.parse(path.read_bytes(), "x")
    path.write_bytes(pointer.write(found.model_copy(update={"model": f"sha256:{'7' * 64}", "version": "v9.0.0"})))
    keep(root, "another model")
    return "the pointer names the model sha256:7"


def _another_statement(root: Path) -> str:
    path = root / layout.ENVIRONMENTS / "staging" / layout.EVIDENCE
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"signatures": []}))
    here = root / at("staging")
    its = pointer.parse(here.read_bytes(), "x")
    here.write_bytes(pointer.write(its.model_copy(update={"version": "v9.0.0"})))
    keep(root, "no signature")
    return "is not the signed statement that the pointer names"


def _another_commit(root: Path) -> str:
    path = root / at("staging")
    found = pointer.parse(path.read_bytes(), "x")
    path.write_bytes(pointer.write(found.model_copy(update={"commit": "1" * 40, "version": "v9.0.0"})))
    keep(root, "another commit")
    return "commit 111111111111, whose record made it, is not in this clone"


@pytest.mark.parametrize("edit", [_another_model, _another_statement, _another_commit])
def test_a_release_whose_evidence_does_not_hold_has_no_page(root: Path, edit: Callable[[Path], str]) -> None:
    why = edit(root)
    found = gathering.gather(root, None)
    assert [each.version for each in found.left_out] == ["v9.0.0"]
    assert why in found.left_out[0].why
    assert "no page: v9.0.0: " in sites.index(found)
    with pytest.raises(EvidenceRefused, match=r"v9\.0\.0: "):
        gathering.gather(root, "v9.0.0")


def test_without_a_current_signer_the_page_says_so(root: Path) -> None:
    (root / layout.SIGNERS).write_text("[]\n")
    keep(root, "nobody may sign")
    found = gathering.gather(root, "production")
    assert found.pages[0].signer is None
    assert "no current signer signed it" in sites.release(found.pages[0], found)


def test_names_that_are_no_release_are_refused(root: Path) -> None:
    with pytest.raises(EvidenceRefused, match=r"'v7\.0\.0' is no release that ran"):
        gathering.gather(root, "v7.0.0")
    for name in ("staging", "production"):
        (root / at(name)).unlink()
    keep(root, "take them away")
    with pytest.raises(EvidenceRefused, match="production runs nothing"):
        gathering.gather(root, "production")


def test_before_the_first_promotion_there_is_nothing_to_show(tmp_path: Path) -> None:
    tree.prepare(tmp_path / "new")
    with pytest.raises(EvidenceRefused, match="nothing was promoted yet"):
        page(tmp_path / "new", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_command_writes_all_pages_or_one_and_prints_what_they_say(ledger: Path, tmp_path: Path) -> None:
    run, out = CliRunner(), tmp_path / "site"
    done = run.invoke(main, ["-C", str(ledger), "page", "--out", str(out)])
    assert (done.exit_code, done.output.split()) == (0, [str(out / name) for name in (
        "index.html", "v0.3.0.html", "v0.2.0.html", "v0.1.0.html"
    )])  # fmt: skip
    one = tmp_path / "one"
    done = run.invoke(main, ["-C", str(ledger), "page", "production", "--out", str(one), "--json"])
    assert [each["version"] for each in json.loads(done.output)["pages"]] == ["v0.2.0"]
    assert [each.name for each in one.iterdir()] == ["v0.2.0.html"]
    assert "All releases" not in (one / "v0.2.0.html").read_text()
    (tmp_path / "file").write_text("")
    done = run.invoke(main, ["-C", str(ledger), "page", "--out", str(tmp_path / "file" / "site")])
    assert done.exit_code == MachineRefused.exit_code
    assert "name a file in a folder that you may write" in done.output


def rendered(site: Site, name: str) -> str:
    return sites.index(site) if name == "index" else sites.release(of(site, name), site)


@pytest.mark.parametrize("name", ["index", "v0.1.0", "v0.2.0", "v0.3.0"])
def test_a_page_loads_nothing_and_can_be_read(site: Site, name: str) -> None:
    html = rendered(site, name)
    browser.loads_nothing(html)
    browser.can_be_read(html)
    assert ("alert(" in html) == (name != "index")  # answers say it


@pytest.mark.parametrize(("where", "mode"), [("phone", "light"), ("desktop", "dark")])
@pytest.mark.parametrize("name", ["index", "v0.2.0"])
def test_a_page_fits_the_screen(site: Site, name: str, where: str, mode: str, tmp_path: Path) -> None:
    width, shown = browser.WIDTHS[where], tmp_path / f"{name}-{where}-{mode}.png"
    html = rendered(site, name)
    browser.picture(html, width, mode, shown, 3000)
    assert colours(shown) > 5, "nothing is to be seen"
    assert browser.wide(html, width, tmp_path) <= width, "a line is wider than the screen"


@pytest.mark.parametrize(("name", "mode"), [("index", "light"), ("v0.2.0", "light"), ("v0.2.0", "dark")])
def test_axe_finds_nothing_serious(site: Site, name: str, mode: str, tmp_path: Path) -> None:
    assert list(browser.serious(rendered(site, name), mode, tmp_path)) == []
