"""The pull request's comment: what each outcome says, on records with their whole history in git."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks.formats import refused
from checks.formats.evaluation_reports import EvaluationReport, Interval, ReferenceUse
from checks.formats.suite_report import SuiteLine, SuiteResult, SuitesMeasured, SuitesReport
from checks.formats.training_reports import ParityReport, ShippedAdapter, Start
from checks.formats.verdict import Finding
from checks.process.errors import EvidenceRefused, Refusal, TrainingRefused, VerdictFailed
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from release.cli import terminal
from release.pages import templates
from release.record.records import Records
from release.review import advice, details, gathering, metrics, sections, situations
from release.review.comparison import Changed
from release.review.facts import Facts
from release.review.metrics import Score
from release.verbs import report as renderer
from release.verbs.report import Report, report
from tests import evidence_tree, report_tree
from tests.conftest import REPOSITORY, as_params
from tests.once import once
from tests.pipeline_repository import git, write_params
from tests.release.pages.test_report_text import LINKED, NASTY, RENDERER, Seen, gfm

pytestmark = pytest.mark.slow

SNAPSHOTS = REPOSITORY / "tests" / "snapshots" / "report"
WRITE = "LOCKSTEP_WRITE_SNAPSHOTS"  # set it, run the tests, and read the difference in git
ON_A_TERMINAL = ("bad-data", "behind", "weakened")  # Together they have every kind of block.
FOR: dict[str, Any] = {"target": "main", "number": 7}
Make = Callable[[Path], object]


def _weakened(value: dict[str, Any]) -> None:
    value["gates"]["routes_well"]["at_least"] = 0.3
    for name in ("keeps_up_with_main", "keeps_up_with_production"):
        del value["gates"][name]


def _passing(root: Path) -> None:
    report_tree.pull_request(root, edit=lambda made: report_tree.trained(made, seconds=1.2))


def _void(root: Path) -> None:
    report_tree.pull_request(root)
    with (root / layout.PREDICTIONS / "candidate.jsonl").open("a") as stream:
        stream.write("\n")
    report_tree.trained(root, final_loss=2.0)


def _bad(root: Path) -> None:
    report_tree.pull_request(root)
    report_tree.bad_data(root)


def _recorded(root: Path) -> None:
    report_tree.pull_request(root)
    shutil.rmtree(root / "data" / "predictions")
    shutil.rmtree(root / "models")


def _without_weights(root: Path) -> None:
    report_tree.pull_request(root)
    shutil.rmtree(root / "models")


def _refused(stage: str, why: Refusal) -> Make:
    """A learning rate that was committed, and what refused it."""

    def make(root: Path) -> None:
        report_tree.pull_request(root)
        value = report_tree.document()
        value["train"]["learning_rate"] = 0.5
        write_params(root, value)
        report_tree.commit(root, "a higher learning rate")
        head = git(root, "rev-parse", "HEAD").strip()
        refused.write(root, refused.of(stage, why, refused.params(root), head))

    return make


def _elsewhere(root: Path) -> None:
    """The record was never committed: HEAD has main's."""
    report_tree.pull_request(root)
    git(root, "reset", "--quiet", "main", "--", "dvc.lock", "reports")
    git(root, "commit", "--quiet", "--amend", "--no-edit", "--date", report_tree.WHEN)


def _edited(change: Callable[[str], str]) -> Make:
    """params.yaml that was changed after the run."""

    def make(root: Path) -> None:
        report_tree.pull_request(root)
        path = root / layout.PARAMS
        path.write_text(change(path.read_text()))
        report_tree.commit(root, "edited")

    return make


def _behind(root: Path) -> None:
    report_tree.pull_request(root)
    report_tree.main_moves(root, 12)


def _undecided(value: dict[str, Any]) -> None:
    value["gates"]["routes_well"]["at_least"] = 0.88


def _quarantined(root: Path) -> None:
    _passing(root)
    report_tree.hold_back(root, "answers in French")


NOT_FINITE = TrainingRefused("the loss is not finite at step 12", "lower train.learning_rate, or raise train.warmup")
OVER = VerdictFailed(
    "over the budget before training: params.yaml: train_budget.train_minutes 40 (26.7 to 60) exceeds 25",
    "shorten the training to 62% of its estimated time (lower train.epochs or max_steps), or let code owners raise the bound",
    ("main:params.yaml: train_budget.cost 3.1 (2.2 to 4.6) exceeds 2",),
)

# Outcome, how it is made, state, status, whether the check passes.
OUTCOMES: dict[str, tuple[Make, str, str | None, bool]] = {
    "pass": (_passing, "held", "pass", True),
    "fail": (lambda root: report_tree.pull_request(root, right=100), "held", "fail", False),
    "inconclusive": (lambda root: report_tree.pull_request(root, right=144), "held", "inconclusive", False),
    "weakened": (lambda root: report_tree.pull_request(root, 110, _weakened), "held", "fail", False),
    "waits": (lambda root: report_tree.pull_request(root, 180, _weakened), "held", "inconclusive", False),
    "not-held": (_void, "not-held", None, False),
    "bad-data": (_bad, "bad-data", None, False),
    "refused": (_refused("train", NOT_FINITE), "refused", None, False),
    "refused-estimate": (_refused("estimate", OVER), "refused", None, False),
    "not-landed": (_elsewhere, "held", "pass", False),
    "recorded": (_recorded, "recorded", "pass", False),
    "without-weights": (_without_weights, "held", "pass", True),
    "same": (report_tree.unchanged, "held", "pass", True),
    "worse": (lambda root: report_tree.pull_request(root, right=152), "held", "pass", True),
    "undecided-threshold": (lambda root: report_tree.pull_request(root, 180, _undecided), "held", "inconclusive", False),
    "not-run": (_edited(lambda text: text.replace("learning_rate: 0.002", "learning_rate: 0.003")), "not-held", None, False),
    "typo": (_edited(lambda text: text.replace("learning_rate: ", "learning_rat: ")), "not-held", None, False),
    "behind": (_behind, "held", "pass", False),
    "quarantined": (_quarantined, "held", "pass", False),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    return outcomes(tmp_path_factory)


def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Return every outcome's report, made once in a run of the tests."""
    reports: dict[str, Report] = pickle.loads((once(tmp_path_factory, "outcomes", _report) / "reports").read_bytes())
    return reports


def _report(folder: Path) -> None:
    reports = {}
    for name, (make, *_) in OUTCOMES.items():
        make(folder / name)
        commit = git(folder / name, "rev-parse", "HEAD").strip() if name == "not-landed" else None
        reports[name] = report(folder / name, **FOR, commit=commit)
    (folder / "reports").write_bytes(pickle.dumps(reports))


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pull request that passes. Read-only: take a copy."""
    root = tmp_path_factory.mktemp("passing") / "pr"
    report_tree.pull_request(root)
    return root


@pytest.fixture
def copy(passing: Path, tmp_path: Path) -> Path:
    """A pull request that passes, to be spoilt."""
    return Path(shutil.copytree(passing, tmp_path / "copy"))


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_reads_as_it_always_did(name: str, made: dict[str, Report]) -> None:
    texts = {"md": made[name].markdown}
    if name in ON_A_TERMINAL:
        texts["txt"] = terminal.text(made[name].whole)
    for suffix, text in texts.items():
        path = SNAPSHOTS / f"{name}.{suffix}"
        now = report_tree.without_digests(text)
        if os.environ.get(WRITE):
            files.write_text(path, now)
        assert now == path.read_text(), f"set {WRITE}=1 to write it anew"


def test_another_server_alone_trains_nothing_and_the_comment_says_what_compares_it(tmp_path: Path) -> None:
    """What a bot's pull request changes: the digest of ``serve.server``."""
    root, server = tmp_path / "pr", f"registry.example/servers/server:2@sha256:{'7' * 64}"
    report_tree.unchanged(root)
    value = report_tree.document()
    value["serve"]["server"] = server
    write_params(root, value)
    report_tree.commit(root, "Update the server's digest")
    found = report(root, **FOR)
    assert (found.state, found.situation, found.passes) == ("held", "waits", False)
    assert found.markdown.startswith(
        "### ⚠️ Pass, but the policy changes in 1 place for everybody after this: a code owner"
    )
    assert "The weights stay those of main, in another server." in found.markdown
    assert "`./lockstep verify --against ENV` compare it with the one that runs." in found.markdown
    assert "serve.server" in found.markdown


@pytest.mark.parametrize("about", ["this model", "another"])
def test_what_each_suite_took_is_shown_for_this_model(copy: Path, about: str) -> None:
    merged = files.read_json(copy / layout.EVALUATION, EvaluationReport).merged
    model = merged if about == "this model" else f"sha256:{'9' * 64}"
    took = SuitesMeasured(merged=model, seconds={"english": 20.96, "everyday": 100.0})
    files.write_json(copy / layout.SUITES_MEASURED, took)
    line = "- Suites: 2.0 min (english 21.0 s, everyday 1.7 min)\n"
    assert (line in report(copy, **FOR).markdown) == (about == "this model")


def test_a_recorded_verdict_of_packages_that_are_not_those_here_is_void(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "data" / "predictions")
    shutil.rmtree(copy / "models")
    assert report(copy, **FOR).state == "recorded"
    line = "plugin lockstep.gates:x: package acme 1.0 is not installed"
    monkeypatch.setattr(gathering, "plugins", SimpleNamespace(differences=lambda _: [line]))
    found = report(copy, **FOR)
    assert (found.state, found.passes) == ("not-held", False)
    assert line in found.markdown


@pytest.mark.parametrize("name", OUTCOMES)
def test_only_a_pass_that_holds_passes(name: str, made: dict[str, Report]) -> None:
    _, state, status, passes = OUTCOMES[name]
    assert (made[name].state, made[name].status, made[name].passes) == (state, status, passes)


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_first_line_has_the_mark_and_another_what_to_do(name: str, made: dict[str, Report]) -> None:
    found = made[name]
    first = found.parts[0].markdown
    assert first.startswith(f"### {found.mark} ")
    assert "\n- **Do:** " in first
    assert not re.search(r"\bp \d|(?<![\w.-])-\d", first), "a p-value, or a hyphen for a minus"
    assert found.title == f"{found.mark} {found.headline}"


def test_the_judged_commit_and_its_files_are_linked(passing: Path) -> None:
    found = report(passing, **FOR, web="https://github.com/example/router").parts[0].markdown
    head = git(passing, "rev-parse", "HEAD").strip()
    assert f"judged [{head[:7]}](https://github.com/example/router/commit/{head})" in found
    assert f"[7 gates](https://github.com/example/router/blob/{head}/reports/verdict.json)" in found


@pytest.mark.parametrize("name", OUTCOMES)
def test_both_renderers_read_the_same_and_nothing_of_it_links_by_itself(name: str, made: dict[str, Report]) -> None:
    for rendered in (RENDERER.render(made[name].markdown), gfm(made[name].markdown)):
        seen = Seen(rendered)
        assert seen.open == []
        assert not LINKED.search(seen.loose)
        assert "img" not in seen.tags
        assert "|" not in seen.loose  # a table that is none shows its pipes
        assert "**" not in seen.loose


def test_the_first_view_has_the_valid_split_and_which_look_at_the_test_split_this_is(passing: Path) -> None:
    records = Records(passing)
    found = gathering.gather(records, "main")
    assert found.verdict
    look = Finding(gate="fresh", kind="looks", status="pass", reason="counted", value=3, bound=20)
    counted = "model 3 of 20 that these rows may judge"
    verdict = found.verdict.model_copy(update={"findings": (*found.verdict.findings, look)})
    changed = replace(found, verdict=verdict)
    advised = advice.advise(situations.of_facts(changed, metrics.against(changed), ""))
    (first, *_) = sections.sections(records, changed, advised, (), 7)
    assert first.markdown.splitlines()[2].endswith(" · valid 90.0 % (main 80.0 %)")
    assert counted in first.markdown


def _another_split(found: Facts) -> Facts:
    assert found.prepare
    splits = found.prepare.splits | {"valid": found.prepare.splits["test"]}
    return replace(found, prepare=found.prepare.model_copy(update={"splits": splits}))


def _another_length(found: Facts) -> Facts:
    assert found.document
    return replace(found, document={**found.document, "evaluate": {**found.document["evaluate"], "max_new_tokens": 3}})


def _of_main(found: Facts, **change: Any) -> Facts:
    return replace(found, target=found.target._replace(**change))


@pytest.mark.parametrize(
    ("edit", "own", "theirs"),
    [
        (lambda found: found, 0.9, 0.8),
        (lambda found: _of_main(found, scores=None), 0.9, None),  # main's record is of an earlier version
        (lambda found: _of_main(found, document={"evaluate": {"scorers": [{"kind": "token-f1"}]}}), 0.9, None),
        (_another_length, 0.9, None),
        (lambda found: _of_main(found, verdict=found.verdict), 0.9, None),  # on main since then
        (_another_split, 0.9, None),
        (lambda found: replace(found, scores=None), None, None),
    ],
)
def test_scores_on_valid_are_beside_mains_only_if_both_were_asked_the_same(
    passing: Path, edit: Callable[[Facts], Facts], own: float | None, theirs: float | None
) -> None:
    found = metrics.on_valid(edit(gathering.gather(Records(passing), "main")))
    assert (found and found[0].value, found and found[1] and found[1].value) == (own, theirs)


def test_a_reward_that_gates_ask_is_named_with_them_and_figures_beside_the_loss(tmp_path: Path) -> None:
    def edit(root: Path) -> None:
        report_tree.trained(root, figures={"rewards/margins": 0.0761}, optimised_for=("exact-match",))

    report_tree.pull_request(tmp_path / "pr", edit=edit)
    training = next(part.markdown for part in report(tmp_path / "pr", **FOR).parts if part.name == "training")
    assert "**Training raised the score of `exact-match`**, which these gates ask: `routes_well`, `" in training
    assert "At the end: `rewards/margins` 0.0761." in training


def test_a_training_that_started_from_an_earlier_model_says_so_before_its_details(tmp_path: Path) -> None:
    def edit(root: Path) -> None:
        files.write_text(root / layout.LEARNED_BEFORE, "")
        empty = digest.of_file(root / layout.LEARNED_BEFORE).sha256
        one, two = (f"sha256:{number * 64}" for number in "12")
        start = Start(commit="3" * 40, model=one, adapter=two, learned=empty, licenses={"data main": "MIT"})
        report_tree.trained(root, start=start)

    report_tree.pull_request(tmp_path / "pr", edit=edit)
    training = next(part.markdown for part in report(tmp_path / "pr", **FOR).parts if part.name == "training")
    says = (
        f"Training started from the adapter `{'2' * 12}` of model `{'1' * 12}`, commit `{'3' * 12}`, not from the base."
    )
    assert says in training
    assert training.index(says) < training.index("<details>")


def test_an_adapter_that_ships_is_named_with_the_weights_that_it_is_added_to(tmp_path: Path) -> None:
    distance = {"max_logprob_diff": 0.2371, "mean_logprob_diff": 0.01, "top1": 0.99}
    shipped = ShippedAdapter(weights=f"sha256:{'4' * 64}", rank=16, **distance)

    def edit(root: Path) -> None:
        parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
        files.write_json(root / layout.PARITY_REPORT, parity.model_copy(update={"shipped_adapter": shipped}))

    report_tree.pull_request(tmp_path / "pr", edit=edit)
    training = next(part.markdown for part in report(tmp_path / "pr", **FOR).parts if part.name == "training")
    assert f", rank 16, beside the weights `{'4' * 12}` of its base. The gates judged both as a server" in training
    assert "would differ by at most 0.237 nats." in training


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (0.03, r"base model 1\.098 \(▼ \+0\.030 \[\+0\.02\d, \+0\.03\d\]\)"),
        (-0.03, r"base model 1\.098 \(▲ −0\.030 \[−0\.03\d, −0\.02\d\]\)"),
        (0.0, r"base model 1\.098 \(≈ \+0\.000 \[−0\.00\d, \+0\.00\d\]\)"),
        (None, r"base model 1\.098"),  # the samples are of other models
    ],
)
def test_a_suite_is_shown_whether_or_not_a_gate_asks_it(tmp_path: Path, by: float | None, said: str) -> None:
    own = 1.0984 + (by or 0.0)

    def edit(root: Path) -> None:
        parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
        models = {"candidate": parity.merged, "base": parity.base}
        lines = [
            SuiteLine(
                sample=f"t{number}", sample_sha=parity.base, model=digest.of_json(role) if by is None else models[role],
                metric="bits-per-byte", group=f"t{number}", slice="all", source="pure", source_digest=parity.base,
                value=mean + 0.01 * (-1) ** number * (role == "base"),
            )
            for role, mean in (("candidate", own), ("base", 1.0984)) for number in range(24)
        ]  # fmt: skip
        files.write_jsonl(root / layout.SUITES / "english.jsonl", lines)
        found = SuiteResult(
            kind="loss", asked=digest.of_json({}), source="pure", samples=24, files={},
            lines=digest.of_file(root / layout.SUITES / "english.jsonl").sha256, models=models,
            means={"candidate": {"bits-per-byte": own}, "base": {"bits-per-byte": 1.0984}},
        )  # fmt: skip
        files.write_json(root / layout.SUITES_REPORT, SuitesReport(suites={"english": found}))

    report_tree.pull_request(tmp_path / "pr", edit=edit)
    found = report(tmp_path / "pr", **FOR)
    metrics = next(part.markdown for part in found.parts if part.name == "metrics")
    assert re.search(rf"^- `english`: `bits-per-byte` {own:.3f}, {said}$", metrics, re.MULTILINE), metrics
    assert f"<li><code>english</code>: <code>bits-per-byte</code> {own:.3f}, base model 1.098" in gfm(metrics)


def _main_is_gone(at: Path) -> None:
    """Neither main's answers nor its weights could be had."""
    path = at / layout.EVALUATION
    found = files.read_json(path, EvaluationReport)
    use = ReferenceUse(how="unavailable", merged=found.references["main"].merged, note="its remote is gone")
    models = {name: model for name, model in found.models.items() if name != "main"}
    files.write_json(path, found.model_copy(update={"references": {"main": use}, "models": models}))
    (at / layout.PREDICTIONS / "main.jsonl").unlink()


@pytest.mark.parametrize(
    ("before", "right", "edit", "first", "todo"),
    [
        (160, 180, None, "✅ Pass · better than main", "merge it. "),
        (180, 145, None, "⚠️ Pass, and worse than main by 17.5 points (", "merge it only if a worse model is intended."),
        (None, 180, None, "✅ Pass · main has no model yet", "merge it. "),
        (160, 180, _main_is_gone, "⚠️ Pass, not compared with main", "compare it first: `./lockstep dvc push`"),
    ],
)  # fmt: skip
def test_main_is_compared_row_by_row_though_no_gate_names_it(
    tmp_path: Path, before: int | None, right: int, edit: report_tree.Edit | None, first: str, todo: str
) -> None:
    root = tmp_path / "pr"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("/models/\n/data/\n")
    value = report_tree.document()
    for name in ("keeps_up_with_main", "keeps_up_with_production"):
        value["gates"].pop(name)
    write_params(root, value)
    if before is not None:
        report_tree.record(root, value, b"first", before)
    report_tree.commit(root, "main")
    git(root, "switch", "--quiet", "--create", "change")
    report_tree.record(root, value, b"second", right, edit)
    report_tree.commit(root, "a change")
    found = report(root, **FOR)
    assert found.status == "pass"
    assert found.markdown.startswith(f"### {first}"), found.markdown[:300]
    assert f"- **Do:** {todo}" in found.markdown
    assert "rows not compared" not in found.markdown
    assert ("changed against main: " in found.markdown) is (before is not None and edit is None)  # flips
    assert found.title.startswith(first)


@pytest.mark.parametrize(("most", "mark"), [(None, "better than main and production"), (20, "better than production")])
def test_a_mark_has_the_error_of_as_many_models_as_the_gates_divide_it_among(
    tmp_path: Path, most: int | None, mark: str
) -> None:
    looks = {} if most is None else {"test_is_fresh": {"kind": "looks", "most": most}}
    report_tree.pull_request(tmp_path / "pr", 166, lambda value: value["gates"].update(looks))
    found = report(tmp_path / "pr", **FOR)
    assert found.markdown.splitlines()[0] == f"### ✅ Pass · {mark}"
    confidence = "95%" if most is None else "99.75%"
    assert f"{confidence} intervals of differences on the same rows" in found.markdown


def _nasty_record(root: Path) -> None:
    """Everything that is not ours says something nasty: rows, answers, slices, labels' notes, devices, parameters."""

    def edit(at: Path) -> None:
        params = as_params(value)
        rows = report_tree.rows_of_test(at)
        answers = [
            evidence_tree.predict(row, i < 20).model_copy(
                update={"prompt": NASTY[i % len(NASTY)]}
                | ({} if i < 20 else {"prediction": f"x{NASTY[-i % len(NASTY)]}"})
            )
            for i, row in enumerate(rows)
        ]
        report_tree.answered(at, params, answers)
        path = at / layout.EVALUATION
        evaluation = files.read_json(path, EvaluationReport)
        figure = evaluation.models["candidate"].metrics
        models = {
            name: model.model_copy(update={"slices": dict.fromkeys(NASTY[:12], figure)})
            for name, model in evaluation.models.items()
        }
        files.write_json(path, evaluation.model_copy(update={"models": models, "summary": ("@octocat closes #12",)}))
        report_tree.trained(
            at,
            device="</details><h1>@octocat",
            mlflow_run="`|#12",
            versions={},
            figures={"</details>@octocat": 1.0},
            optimised_for=("`|#12",),
        )
        confusion = "\n".join(f'"{a}","b"' for a in ("@octocat", "a|b", "</td>", "``", "https://evil.example"))
        (at / layout.CONFUSION).write_text(f"reference,predicted\n{confusion}\n")

    def change(document: dict[str, Any]) -> None:
        document["prepare"]["loader"]["instruction"] = "</details>`|@octocat #12 https://evil.example ![x](y)"
        document["tracking"]["experiment"] = "**@octocat** | x"

    value = report_tree.document()
    value["train"]["learning_rate"] = 0.002
    change(value)
    report_tree.pull_request(root, 180, change, edit)


@pytest.mark.parametrize("bad", [False, True])
def test_nothing_that_data_says_becomes_anything_but_text(tmp_path: Path, bad: bool) -> None:
    plain, root = tmp_path / "plain", tmp_path / "pr"
    report_tree.pull_request(plain, 20, lambda value: value["prepare"]["loader"].update(instruction="Name it."))
    _nasty_record(root)
    branch = "feat/`a|b<b>@octocat#12"
    git(root, "branch", branch, "main")
    if bad:
        report_tree.bad_data(plain)
        report_tree.bad_data(root, prompt="".join(NASTY))
    nasty, fine = report(root, target=branch, number=7), report(plain, **FOR)
    assert (nasty.state, nasty.status) == (fine.state, fine.status)
    for render in (RENDERER.render, gfm):
        seen, usual = Seen(render(nasty.markdown)), Seen(render(fine.markdown))
        assert set(seen.tags) <= set(usual.tags) | {"em"}
        assert seen.tags.count("h3") == usual.tags.count("h3")
        assert not {name for name, _ in seen.attributes} - {"align", "style", "class"}
        assert not LINKED.search(seen.loose), LINKED.search(seen.loose)
        assert "|" not in seen.loose
    assert all(line.isprintable() for line in terminal.text(nasty.whole).splitlines())


def test_the_comment_never_exceeds_what_github_takes(tmp_path: Path) -> None:
    """5,000 flipped rows of the longest texts, in 400 slices."""
    root = tmp_path / "pr"

    def edit(at: Path) -> None:
        rows = report_tree.rows_of_test(at)
        params = as_params(value)
        answers = [
            evidence_tree.predict(row, i < 100).model_copy(
                update={"prompt": "`|" * 4000} | ({} if i < 100 else {"prediction": "😀" * 500})
            )
            for i, row in enumerate(rows)
        ]
        report_tree.answered(at, params, answers)
        path = at / layout.EVALUATION
        evaluation = files.read_json(path, EvaluationReport)
        candidate = evaluation.models["candidate"]
        slices = {f"{i} {'@' * 300}": candidate.metrics for i in range(400)}
        models = evaluation.models | {"candidate": candidate.model_copy(update={"slices": slices})}
        files.write_json(path, evaluation.model_copy(update={"models": models}))

    value = report_tree.document()
    value["train"]["learning_rate"] = 0.002
    report_tree.pull_request(root, 180, edit=edit)
    whole = report(root, **FOR)
    assert whole.left_out == ()
    assert renderer.size(whole.markdown) < renderer.LIMIT
    for limit in (14_000, 9_000, 4_000):
        cut = report(root, **FOR, limit=limit)
        assert renderer.size(cut.markdown) <= limit
        assert cut.left_out
        assert "Left out because of the size limit: " in cut.markdown
        assert cut.markdown.startswith(whole.markdown[:60])
        assert Seen(RENDERER.render(cut.markdown)).open == []


def test_five_thousand_flipped_rows_are_counted_and_a_few_are_shown() -> None:
    rows = evidence_tree.rows("test", 10_000)
    ours = [evidence_tree.predict(row, i >= 5000) for i, row in enumerate(rows)]
    theirs = [evidence_tree.predict(row, i < 5000) for i, row in enumerate(rows)]
    text = templates.render(
        "release.review", sections.TEMPLATE, "flips_section", {"flips": [details.flipped("production", ours, theirs)]}
    )
    assert "5,000 newly wrong, 5,000 newly right" in text
    assert text.count("…and 4,995 more.") == 2
    assert renderer.size(text) < 4000


def test_rows_that_the_other_model_learned_are_no_flips() -> None:
    rows = evidence_tree.rows("test", 4)
    ours = [evidence_tree.predict(row, False) for row in rows]
    theirs = [evidence_tree.predict(row, True).model_copy(update={"learned": row is rows[0]}) for row in rows]
    flips = details.flipped("main", ours, theirs)
    assert (flips.rows, [answer.id for answer, _ in flips.lost]) == (3, [row.id for row in rows[1:]])


def test_an_old_data_report_is_no_bad_data(copy: Path) -> None:
    """prepare made other splits since: what is wrong is that nobody asked, not what was asked."""
    report_tree.bad_data(copy)
    path = copy / layout.DATA_REPORT
    path.write_text(
        path.read_text().replace('"train": "sha256:', '"train": "sha256:' + "0" * 64 + '", "x": "sha256:', 1)
    )
    assert report(copy, **FOR).state == "not-held"


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda root: (root / layout.VERDICT).unlink(), "`reports/verdict.json: is missing`"),
        (lambda root: (root / layout.VERDICT).write_text("{"), "verdict.json"),
        (lambda root: (root / layout.PARAMS).write_text("a: ["), "params.yaml"),
        (lambda root: (root / layout.LOCK).unlink(), "dvc.lock"),
        (lambda root: (root / layout.EVALUATION).unlink(), "evaluation.json"),
    ],
)
def test_a_record_that_cannot_be_read_holds_no_verdict_and_is_still_a_comment(
    copy: Path, spoil: Callable[[Path], object], word: str
) -> None:
    spoil(copy)
    found = report(copy, **FOR)
    assert (found.state, found.status, found.passes) == ("not-held", None, False)
    assert word in found.markdown
    is_params = word == "params.yaml"
    assert found.markdown.startswith(
        "### ❌ Parameters refused: " if is_params else "### 🚫 The verdict does not hold: "
    )
    assert f"- **Do:** {'correct `params.yaml`' if is_params else 'run `./lockstep run`'}" in found.markdown


def test_a_verdict_written_by_hand_does_not_pass_anywhere(tmp_path: Path) -> None:
    """Neither where the gates can be asked again nor, by digests alone, where they cannot."""
    root = tmp_path / "pr"
    report_tree.pull_request(root, right=100)
    path = root / layout.VERDICT
    path.write_text(path.read_text().replace('"fail"', '"pass"'))
    assert report(root, **FOR).state == "not-held"
    shutil.rmtree(root / "data" / "predictions")
    found = report(root, **FOR)
    assert not found.passes


def test_a_target_that_git_does_not_know_is_refused(passing: Path) -> None:
    with pytest.raises(EvidenceRefused, match="git knows no such commit"):
        report(passing, target="elsewhere")


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "https://a.b/x)y", "https://a.b/`", "https://user:secret@a.b/", "http://a b", "//a.b"],
)
def test_an_address_that_could_break_out_is_refused_without_its_login(passing: Path, url: str) -> None:
    with pytest.raises(EvidenceRefused, match="is not a valid address") as refused:
        report(passing, **FOR, links=(("Artifacts", url),))
    assert "secret" not in str(refused.value)


def test_links_are_given_by_the_workflow(passing: Path) -> None:
    links = (("Artifacts", "https://host.example/runs/1"), ("Data Docs", "https://host.example/docs/index.html"))
    found = report(passing, **FOR, links=links)
    assert "- [Artifacts](https://host.example/runs/1)" in found.markdown
    assert "Artifacts https://host.example/runs/1" in terminal.text(found.whole)


def test_predictions_of_other_rows_are_not_compared() -> None:
    from release.review.metrics import paired

    rows = evidence_tree.rows("test", 40)
    ours = [evidence_tree.predict(row, True) for row in rows]
    assert paired(ours, ours[:-1], "exact-match", 0.95) is None
    assert paired(ours, ours, "other", 0.95) is None
    assert paired([], [], "exact-match", 0.95) is None
    same = paired(ours, [Prediction.model_validate(each.model_dump()) for each in ours], "exact-match", 0.95)
    assert (same and same.value) == 0


def _cheap(value: float, low: float, high: float, found_by: str = "difference") -> dict[str, object]:
    figure, difference = Interval(value=0.8, low=0.7, high=0.9, n=50), Interval(value=value, low=low, high=high, n=50)
    score = Score("naive-bayes", "evaluated", figure)
    return {"cheapest": Score(**(score._asdict() | {found_by: difference}))}


_ONE = Changed(what="train.lora.r", a="16", b="8")
_JUDGED = Changed(what="gates.good.at_least", a="0.6", b=None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (_cheap(0.1, 0.05, 0.15), "**Best cheap baseline:** Naive Bayes 80.0 % → **▲ +10.0**"),
        (_cheap(-0.1, -0.2, -0.05), "⚠️ **Naive Bayes is better:** 80.0 % → **▼ −10.0**"),
        (
            _cheap(0.1, -0.05, 0.15),
            "⚠️ **Not shown to be better than Naive Bayes:** 80.0 % → ≈ +10.0",
        ),
        (_cheap(0.1, 0.05, 0.15, "of_gate"), "**Best cheap baseline:** Naive Bayes 80.0 % → **▲ +10.0**"),
        ({"parameters": []}, "**Changed:** no parameter"),
        ({"parameters": [_ONE]}, "**Changed:** `train.lora.r` `16` → `8`"),
        ({"parameters": [_JUDGED]}, "**Changed:** **`gates.good.at_least`** removed"),
        ({"parameters": [_ONE] * 6}, "**Changed:** " + "; ".join(["`train.lora.r` `16` → `8`"] * 4) + "; and 2 more"),
        ({"parameters": [], "splits": ["train", "test"]}, "**Changed:** no parameter; rows of `train`, `test`"),
        ({}, ""),
    ],
)
def test_what_is_read_first(values: dict[str, object], said: str) -> None:
    nothing: dict[str, object] = {
        "scorer": "",
        "against": [],
        "failed_expectations": [],
        "cheapest": None,
        "kept": [],
        "facts": SimpleNamespace(changes=(), verdict=None, target=SimpleNamespace(emergencies={})),
        "parameters": None,
        "needs_approval": lambda _facts, path: path.startswith("gates."),
        "splits": [],
        "shown_at_first": 4,
    }
    first = templates.render("release.review", sections.TEMPLATE, "at_first", nothing | values)
    assert first == (f"- {said}" if said else "")


def test_a_new_test_split_is_named_with_what_mains_model_scored_on_the_old_one(passing: Path) -> None:
    records = Records(passing)
    found = gathering.gather(records, "main")
    evaluation = found.target.evaluation
    assert evaluation is not None
    old = evaluation.model_copy(update={"test": digest.of_bytes(b"old rows"), "rows": 150})
    another = replace(found, target=found.target._replace(evaluation=old))
    advised = advice.advise(situations.of_facts(found, metrics.against(found), metrics.uncompared(found)))
    before, after = (
        "".join(section.markdown for section in sections.sections(records, facts, advised, (), 7))
        for facts in (found, another)
    )
    assert "The test split is new" not in before
    assert "is new. On the 150 rows of the old one, `main`'s model has `exact-match` 0.800 [0.800, 0.800]." in after
