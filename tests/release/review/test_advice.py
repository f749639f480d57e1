"""The mark, headline and next step of each situation: what a stranger does after five seconds."""

from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest

from checks.formats.verdict import Finding, Verdict
from checks.stats import paired
from release.cli import tables
from release.pages import templates
from release.pages.figures import typeset, without_p
from release.pages.words import Prose, Words
from release.review import advice, metrics, side_by_side, situations
from release.review.advice import Refused, Situation, Standing
from release.review.comparison import Metric, SideFacts
from release.review.metrics import SuiteScore


def _finding(kind: str = "threshold", status: str = "fail", **more: Any) -> Finding:
    reason = "exact-match 0.500 is not at least 0.6 (lower 95% bound 0.440, p 0.9)"
    return Finding.model_validate({"gate": "routes_well", "kind": kind, "status": status, "reason": reason, **more})


_BETTER = Standing("main", "better", 0.1, 0.056, 0.142, 0.1)
_WORSE = Standing("main", "worse", -0.3, -0.361, -0.233, 0.1)
_WITHIN = Standing("main", "worse", -0.04, -0.068, -0.011, 0.1)
_OPEN = _finding(status="inconclusive", rows_needed=400)
_PASS = Situation(status="pass", own="pass")

# The fifteen situations of strangers before the comment, but for drifted traffic, which `watch` tells; then all others.
SITUATIONS: dict[str, tuple[Situation, str, str, str, bool]] = {
    "better than main": (
        _PASS._replace(standings=(_BETTER,)), "better", "✅ Pass · better than main", "merge it. ", True,
    ),
    "the same model": (
        _PASS._replace(standings=(Standing("main", "same"), Standing("production", "better", 0.1, 0.05, 0.2))),
        "same", "✅ Pass · the same model as main", "merge it. Nothing that is released changes.", True,
    ),
    "the same model in another server": (
        _PASS._replace(standings=(Standing("main", "same"),), new_server=True), "same",
        "✅ Pass · the same model as main", "merge it. The weights stay those of main, in another server. ", True,
    ),
    "another server, before a code owner approves": (
        _PASS._replace(waits=True, weaker="the policy changes in 1 place for everybody", new_server=True), "waits",
        "⚠️ Pass, but the policy changes in 1 place for everybody after this: a code owner decides",
        "let a code owner decide, ", False,
    ),
    "worse by 30 points": (
        Situation(status="fail", own="fail", failing=(_finding(),), standings=(_WORSE,)), "fail",
        "❌ Fail, worse than main by 30.0 points (23.3 to 36.1; 10 allowed)",
        "do not merge. Read the answers that became wrong, ", False,
    ),
    "data refused": (
        Situation(refused=Refused("validate", "1 of 2 expectations fail", ""), of="data"), "data-refused",
        "❌ Data refused: 1 of 2 expectations fail", "fix the source, or a rule or bound in `params.yaml`", False,
    ),
    "over budget": (
        Situation(refused=Refused("Estimate", "over the budget before training", "shorten the training to 62%")),
        "refused", "❌ Estimate refused: over the budget before training", "shorten the training to 62%", False,
    ),
    "loss not finite": (
        Situation(refused=Refused("train", "the loss is not finite at step 12", "lower train.learning_rate")),
        "refused", "❌ train refused: the loss is not finite at step 12", "lower train.learning_rate", False,
    ),
    "record not on the branch": (
        _PASS._replace(off_branch=Words("Commit abc lacks these files."), standings=(_BETTER,)), "not-on-branch",
        "🚫 Pass, and the record is not on the branch", "find out why `./lockstep record` did not commit it", False,
    ),
    "parameters changed, not run": (
        Situation(void="train is not what train ran with", unrun=("train.learning_rate",)),
        "not-run", "🚫 Not run yet: train.learning_rate changed since the last run", "run `./lockstep run`, commit ", False,
    ),
    "inconclusive threshold": (
        Situation(status="inconclusive", own="inconclusive", failing=(_OPEN,)), "inconclusive",
        "⚠️ Inconclusive: routes_well: these rows are too few to decide",
        "add test rows: about 400 would decide, or train a better model; then push. ", False,
    ),
    "English may be forgotten": (
        Situation(status="inconclusive", own="inconclusive", failing=(_finding("remembers", "inconclusive", value=0.2),)),
        "inconclusive", "⚠️ Inconclusive: routes_well: these rows are too few to decide",
        "lower train.learning_rate, or train a better model; then push. ", False,
    ),
    "the noise is not known": (
        Situation(status="inconclusive", own="inconclusive", failing=(_finding("non_inferior", "inconclusive"),)),
        "inconclusive", "⚠️ Inconclusive: routes_well: not measured yet", "do what the gate's reason says; then push. ", False,
    ),
    "only gates weakened": (
        _PASS._replace(status="inconclusive", waits=True, weaker="2 gates become weaker for everybody"), "waits",
        "⚠️ Pass, but 2 gates become weaker for everybody after this: a code owner decides", "let a code owner decide", False,
    ),
    "quarantined weights": (
        _PASS._replace(quarantined=("v0.3.0", "answers in French"), standings=(_BETTER,)), "quarantined",
        "🚫 Quarantined: answers in French", "train another model; or, if the fault was not in the weights", False,
    ),
    "worse than main within the margin": (
        _PASS._replace(standings=(_WITHIN,)), "worse",
        "⚠️ Pass, and worse than main by 4.0 points (1.1 to 6.8; 10 allowed)",
        "merge it only if a worse model is intended.", True,
    ),
    "typo in a key": (
        Situation(refused=Refused("Parameters", "params.yaml:9: train.learning_rat: unknown key", "did you mean learning_rate?"),
                  of="parameters"),
        "parameters-refused", "❌ Parameters refused: params.yaml:9: train.learning_rat: unknown key",
        "correct `params.yaml`, and push: did you mean learning_rate?", False,
    ),
    "branch behind main": (
        _PASS._replace(behind=12, target="origin/main", weaker="2 gates become weaker", waits=True), "behind",
        "🚫 12 commits behind origin/main: merge origin/main first", "run these two lines: ", False,
    ),
    "too close to main": (
        _PASS._replace(standings=(Standing("main", "alike", 0.01, -0.02, 0.04),)), "pass",
        "✅ Pass · no difference to main is shown", "merge it. ", True,
    ),
    "the first model": (
        _PASS._replace(standings=(Standing("main", "absent"),)), "pass", "✅ Pass · main has no model yet", "merge it. ", True,
    ),
    "main cannot be had": (
        _PASS._replace(uncompared="its remote is gone"), "uncompared", "⚠️ Pass, not compared with main",
        "compare it first: `./lockstep dvc push`", True,
    ),
    "only its own policy passes": (
        _PASS._replace(status="fail", failing=(_finding(),), standings=(_WORSE,)), "weaker-policy",
        "❌ Fail under the policy of main", "train a model that is no worse than main; or restore", False,
    ),
    "files are missing here": (
        _PASS._replace(held=False, missing=("data/predictions/base.jsonl",)), "recorded", "🚫 Not judged here", "fetch it", False,
    ),
    "another file": (
        Situation(void="data/splits/test.jsonl is another"), "not-held",
        "🚫 The verdict does not hold: data/splits/test.jsonl is another", "run `./lockstep run`, commit", False,
    ),
    "the machine was full": (
        Situation(refused=Refused("train", "no memory", "free some", machine=True)), "refused", "❌ train refused: no memory",
        "free some; then run the job again. The cause is the machine, not the change.", False,
    ),
    "a release": (situations.of_release("v1", "pass", None), "pass", "✅ Pass", "run it: see Try it.", True),
    "a release in quarantine": (
        situations.of_release("v1", "pass", "answers in French"), "quarantined", "🚫 Quarantined: answers in French",
        "run another release.", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation_has_one_mark_and_says_what_to_do(name: str) -> None:
    situation, wanted, title, todo, success = SITUATIONS[name]
    advised = advice.advise(situation)
    assert (advised.name, advised.title, advised.success) == (wanted, title, success)
    assert advised.todo.plain.startswith(todo)
    for words in (advised.headline, advised.why, advised.todo):
        assert "{" not in words.plain + words.markdown


def test_every_situation_of_the_table_is_tested() -> None:
    assert {wanted for _, wanted, *_ in SITUATIONS.values()} == set(advice.TABLE)


def test_the_two_lines_that_merge_main_are_those_of_the_guide() -> None:
    from tests.conftest import REPOSITORY

    todo = advice.advise(SITUATIONS["branch behind main"][0]).todo.markdown
    lines = todo.partition("```bash\n")[2].removesuffix("\n```")
    assert lines in (REPOSITORY / "docs/how-to/github.md").read_text()


def test_a_name_is_a_code_span_and_a_sentence_stays_words_if_it_is_harmless() -> None:
    values = {"name": "a|<b>@octocat", "why": Prose("@octocat closes #12"), "fine": Prose("it is fine")}
    assert Words("{name}: {why}, {fine}", values).markdown == "`a│<b>@octocat`: `@octocat closes #12`, it is fine"


@pytest.mark.parametrize(
    ("reason", "typed", "first"),
    [
        ("exact-match -0.300 against main (upper 95% bound -0.247, p 1.7e-18): worse",
         "exact-match −0.300 against main (upper 95% bound −0.247, p 1.7e-18): worse",
         "exact-match −0.300 against main (upper 95% bound −0.247): worse"),
        ("about 1353 rows of 1048 test rows in 2026", "about 1,353 rows of 1,048 test rows in 2026",
         "about 1,353 rows of 1,048 test rows in 2026"),
        ("exact-match 0.5 (p 0.02)", "exact-match 0.5 (p 0.02)", "exact-match 0.5"),
        ("of 8-bit files, GH-1 and 2026-11-30", "of 8-bit files, GH-1 and 2026-11-30", "of 8-bit files, GH-1 and 2026-11-30"),
    ],
)  # fmt: skip
def test_figures_are_typeset_and_a_first_screen_has_no_p(reason: str, typed: str, first: str) -> None:
    assert (typeset(reason), without_p(reason)) == (typed, first)


_FORGOT: dict[str, Any] = {"metric": "bits-per-byte", "against": "base", "suite": "english", "status": "pass"}


@pytest.mark.parametrize(
    ("less", "base", "own", "bounds", "gate", "said"),
    [
        (True, 1.098, 1.160, (0.0617, 0.0551, 0.0687), ("remembers", 0.1), "`english` ▼ 5.6 % (9.1 allowed)"),
        (True, 1.098, 1.100, (0.002, -0.004, 0.008), ("remembers", 0.1), "`english` ≈ +0.2 % (−0.4 to +0.7; 9.1 allowed)"),
        (True, 1.098, 1.0, (-0.098, -0.12, -0.08), ("remembers", 0.1), "`english` ▲ 8.9 % (9.1 allowed)"),
        (False, 0.545, 0.493, (-0.0522, -0.1242, 0.0182), ("non_inferior", -0.25),
         "`english` ≈ −5.2 points (−12.4 to +1.8; 25 allowed)"),
        (False, 4.1, 3.2, (-0.9, -1.2, -0.6), ("improves", 0.0), "`english` ▼ −0.90"),
        (False, 0.545, 0.493, None, ("non_inferior", -0.25), "`english` 0.493 (25 allowed)"),
    ],
)  # fmt: skip
def test_what_a_model_forgot_is_one_line_with_what_is_allowed(
    less: bool, base: float, own: float, bounds: tuple[float, float, float] | None, gate: tuple[str, float], said: str
) -> None:
    figures = dict(zip(("value", "low", "high"), bounds or (None,) * 3, strict=True))
    found = _verdict(_finding(gate[0], **{**_FORGOT, **figures, "bound": gate[1]}))
    score = SuiteScore("english", "bits-per-byte", own, (("base", base),), {}, less)
    assert [row.words.markdown for row in metrics.forgot(found, [score])] == [said]


def test_a_card_shows_suites_beside_the_base_with_what_is_allowed() -> None:
    found = _verdict(_finding("remembers", **{**_FORGOT, "value": 0.0617, "low": 0.0551, "high": 0.0687, "bound": 0.1}))
    row = metrics.forgot(found, [SuiteScore("english", "bits-per-byte", 1.16, (("base", 1.098),), {}, True)])[0]
    facts = SimpleNamespace(kept=[row], suites=SimpleNamespace(suites={"english": SimpleNamespace(samples=24)}))
    card = templates.environment("release.cards").get_template("cards.md.jinja").make_module({})
    assert vars(card)["suites"](facts).strip().splitlines()[-1] == (
        "| `english` | `bits-per-byte` | 24 | 1.098 | 1.160 | ▼ 5.6 % (+5.0 to +6.3) | 9.1 |"
    )


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ((1, 0), 40, "B is worse than A by exact-match: −100.0 points ("),
        ((7, 1), 40, "B is probably worse than A by exact-match: −15.0 points (−31."),
        ((1, 7), 40, "B is probably better than A by exact-match: +15.0 points ("),
        ((3, 2), 40, "No difference between A and B is shown by exact-match: −2.5 points ("),
    ],
)
def test_a_comparison_says_what_is_probable(old: tuple[int, int], new: int, wanted: str) -> None:
    lost, won = (new, 0) if old == (1, 0) else old
    before = [1.0] * lost + [0.0] * (new - lost)
    after = [0.0] * lost + [1.0] * won + [0.0] * (new - lost - won)
    difference = paired.two_sided(before, after, np.arange(new), 0.95)
    metric = Metric(suite=None, name="exact-match", a=None, b=None, difference=difference, note="")
    side = SideFacts(
        name="x", commit=None, version=None, image=None, model=None, test=None, rows=None, verdict=None, device=None
    )
    assert side_by_side.headline({"A": side, "B": side}, [metric], 0.95).startswith(wanted)


def _verdict(*findings: Finding) -> Verdict:
    return Verdict(status="fail", model=f"sha256:{1:064}", policy=f"sha256:{2:064}", judged={}, findings=findings)


def test_a_terminal_ends_with_what_failed_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    fine = [_finding(status="pass", gate=f"gate_{number}", reason="long " * 40) for number in range(13)]
    found = _verdict(_finding(), *fine)
    lines = click.unstyle(tables.verdict(found, whole=False)).splitlines()
    assert [line for line in lines if len(line) > 80 and "gate_" in line] == []
    assert "✗" in lines[-4]
    assert "routes_well" in lines[-4]
    assert lines[-2].endswith("❌ Fail: routes_well")
    assert lines[-1].startswith("Do: do not merge.")
    assert ("long " * 40).strip() in tables.verdict(found)


def test_longer_thoughts_are_no_better_score() -> None:
    asked: dict[str, Any] = {"status": "pass", "against": "main", "n": 200}
    thoughts = _finding("thinking", metric="thought-tokens", value=1.05, low=1.01, high=1.09, bound=1.2, **asked)
    scored = _finding("non_inferior", metric="exact-match", value=0.1, low=0.056, high=0.142, bound=0.1, **asked)
    assert situations.of_verdict(_verdict(thoughts)).standings == ()
    assert situations.of_verdict(_verdict(thoughts, scored)).standings == (_BETTER._replace(allowed=None),)
