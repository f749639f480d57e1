"""A kind of gate and a scorer of one's own: one file each, in the folder of kinds or in an installed package."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from checks.storage import layout
from tests import plugin_package
from tests.conftest import REPOSITORY
from tests.pipeline_repository import git

pytestmark = pytest.mark.slow

SHORT_ANSWERS = '''"""short-answers: no answer of the candidate is longer than so many words."""

from typing import Annotated, Literal

from pydantic import Field

from checks.storage import layout
from checks.formats.evidence import NoEvidence
from checks.kinds.gate import Case, Explained, GateKind
from checks.records.sections import stricter
from checks.formats.verdict import Finding, Verdict


class ShortAnswers(GateKind):
    """No answer of the candidate is longer than so many words."""

    kind: Literal["short-answers"]
    words: Annotated[int, Field(ge=1, description="the most words of an answer"), stricter("lower")]

    def check(self, case: Case) -> Finding:
        answers = case.evidence.answers.get("candidate")
        if not answers:
            raise NoEvidence("no evidence: the candidate has no answers")
        longest = max(len(answer.prediction.split()) for answer in answers)
        return Finding(
            gate=case.name, kind=self.kind, status="pass" if longest <= self.words else "fail", n=len(answers),
            reason=f"the longest answer has {longest} words, at most {self.words} may be",
            value=longest, bound=self.words,
        )

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        return Explained(
            f"has every answer at most {self.words} words?", "by rule: the longest answer decides", f"{place}.words",
            f"{layout.PREDICTIONS}/candidate.jsonl",
        )
'''
FIRST_WORD = '''"""first-word: the first words of prediction and reference are the same."""

from typing import Literal

from checks.kinds.scorer import ScorerKind


class FirstWord(ScorerKind):
    """1 when the first words are the same."""

    kind: Literal["first-word"]

    def score(self, prediction: str, reference: str) -> float:
        return float(prediction.split()[:1] == reference.split()[:1])
'''
SPACED = '''"""spaced: a log with a line for each sample: its name, the model, and a number."""

from typing import Literal

from checks.storage import digest
from checks.kinds.suite import LogSuite
from checks.formats.suite_report import Scored


class Spaced(LogSuite):
    """Lines of sample, model and number, parted by spaces."""

    kind: Literal["spaced"]

    @property
    def evidence(self):
        return "external"

    def convert(self, log):
        for line in log.read_text().splitlines():
            name, model, value = line.split(" ")
            yield Scored(
                sample=name, sample_sha=digest.of_json(name), model=model, metric="points", value=float(value), group=name,
                slice="all",
            )
'''
LENGTH = '''"""length: a judge that likes short answers."""

from typing import Annotated, Literal

from pydantic import Field

from checks.kinds.judge import JudgeKind
from checks.formats.suite_report import Judgement


class Length(JudgeKind):
    """1 for an answer of at most so many letters."""

    kind: Literal["length"]
    letters: Annotated[int, Field(ge=1)]

    @property
    def evidence(self):
        return "judge"

    def judge(self, asked, scale, material):
        for each in asked:
            value = scale.high if len(each.answer) <= self.letters else scale.low
            yield Judgement(sample=each.row.id, answer_sha=each.sha, value=value, judge="a ruler", prompt_sha=None)
'''
ENTRY_POINTS = {
    "lockstep.gates": {"short-answers": "acme_kinds.short_answers"},
    "lockstep.scorers": {"first-word": "acme_kinds.first_word:FirstWord"},
    "lockstep.suites": {"spaced": "acme_kinds.spaced"},
    "lockstep.judges": {"length": "acme_kinds.length"},
}
PACKAGE = {
    "acme_kinds/__init__.py": "",
    "acme_kinds/short_answers.py": SHORT_ANSWERS,
    "acme_kinds/first_word.py": FIRST_WORD,
    "acme_kinds/spaced.py": SPACED,
    "acme_kinds/length.py": LENGTH,
    "acme_kinds/wrong.py": SHORT_ANSWERS.replace("    kind: ", "    reads = 'minds'\n    kind: "),
}
# All that a kind is asked for: parameters and their schema, directions, the verdict.
BUILD = """
import copy, json
from pathlib import Path
from checks.kinds import team_kinds
team_kinds.use(Path("work"))
from checks.storage import files, layout
from checks.gating import chain
from checks.config import params_file
from checks.decision import policy
from checks.evaluation import scoring
from checks.records.rows import Row
from tests import evidence_tree
from tests.conftest import as_params, scaled_down
from tests.pipeline_repository import write_params
root = Path("work")
root.mkdir(exist_ok=True)
document = scaled_down()
document["evaluate"]["scorers"].append({"kind": "first-word"})
document["gates"] = {
    "brief": {"kind": "short-answers", "words": 3},
    "begins": {"kind": "threshold", "metric": "first-word", "at_least": 0.5, "confidence": 0.95, "resolution": 0.3},
}
write_params(root, document)
params = params_file.load(root / "params.yaml")
evidence_tree.build(root, params)
scored = []
for i, row in enumerate(files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)):
    one = evidence_tree.predict(row, i < 36)
    scores = {s.kind: scoring.score(s, one.prediction, row.reference) for s in params.evaluate.scorers}
    scored.append(one.model_copy(update={"scores": scores}))
evidence_tree.evaluated(root, params, scored, base=scored)
verdict = evidence_tree.judged(root, params)
kinds = []
for words in (2, 5):
    other = copy.deepcopy(document)
    other["gates"]["brief"]["words"] = words
    kinds += [change.kind for change in policy.changes(policy.of(params, None), policy.of(as_params(other), None))]
print(json.dumps({
    "schema": [name for name in ("ShortAnswers", "FirstWord") if json.dumps(name) in json.dumps(params_file.schema())],
    "changes": kinds,
    "findings": {finding.gate: [finding.status, finding.reason] for finding in verdict.findings},
    "plugins": {name: plugin.model_dump() for name, plugin in verdict.plugins.items()},
}))
"""
# A suite of each kind: the stage, the gates, and a log that is about another model.
SUITES = """
import json
from pathlib import Path
from checks.kinds import team_kinds
team_kinds.use(Path("work"))
from checks.storage import digest, files, layout
from checks.config import params_file
from checks.process.errors import EvidenceRefused
from checks.formats.suite_report import SuitesReport
from stages.suites import suites
from tests import evidence_tree
from tests.conftest import as_params, scaled_down
from tests.pipeline_repository import write_params
root = Path("suites")
root.mkdir()
document = scaled_down()
document["gates"] = {"sound": {"kind": "data"}}
evidence_tree.build(root, as_params(document))
def pinned(model):
    log = root / "spaced.log"
    log.write_text("".join(f"s{i} {model} {i % 10}\\n" for i in range(50)))
    return {"uri": "spaced.log", "sha256": digest.of_file(log).sha256[7:], "license": None}
scale = {"low": 0.0, "high": 9.0}
document["suites"] = {
    "points": {"kind": "spaced", "metrics": {"points": scale}, "noise": 0.0, "samples": 50,
               "logs": {"candidate": pinned(digest.of_tree(root / layout.MERGED).digest)}},
    "short": {"kind": "judged", "metrics": {"short": scale}, "noise": 0.0, "models": ["candidate"], "max_unparsed": 0.0,
              "judge": {"kind": "length", "letters": 4}},
}
bound = {"at_least": 0.1, "confidence": 0.95, "resolution": 0.3}
document["gates"] = {"points": {"kind": "threshold", "suite": "points", "metric": "points", **bound}}  # none asks a judge
write_params(root, document)
params = params_file.load(root / "params.yaml")
said = suites(params, root)
verdict = evidence_tree.judged(root, params)
report = files.read_json(root / layout.SUITES_REPORT, SuitesReport)
document["suites"]["points"]["logs"]["candidate"] = pinned("sha256:" + "9" * 64)
try:
    suites(as_params(document), root)
except EvidenceRefused as refused:
    refusal = str(refused)
print(json.dumps({
    "schema": [name for name in ("Spaced", "Length") if json.dumps(name) in json.dumps(params_file.schema())],
    "said": said,
    "findings": {f.gate: [f.status, f.value, f.evidence] for f in verdict.findings},
    "plugins": {name: plugin.distribution for name, plugin in report.plugins.items()},
    "refusal": refusal.partition(", the candidate is")[0],
}))
"""
SUITES_SAID = {
    "schema": ["Spaced", "Length"],
    "said": "points: points 4.500 on 50 samples, external; short: short 4.950 on 40 samples, judge",
    "findings": {"points": ["pass", 0.5, "witnessed"]},
    "refusal": "params.yaml: suites.points.logs.candidate: is about model sha256:999999999999…",
}
FINDING = ["pass", "the longest answer has 1 words, at most 3 may be"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installed it."""
    folder = tmp_path_factory.mktemp("packages")
    plugin_package.by_pip(folder / "site", folder / "source", "acme-kinds", ENTRY_POINTS, PACKAGE)
    return folder / "site"


@pytest.fixture(scope="module")
def judged(installed: Path) -> dict[str, Any]:
    """What a run with the package says; the run lies beside the folder of packages."""
    return _built(installed)


@pytest.fixture
def site(installed: Path, tmp_path: Path) -> Path:
    """A copy of the folder of packages, with nothing beside it."""
    return Path(shutil.copytree(installed, tmp_path / "site"))


@pytest.fixture
def run(site: Path, installed: Path, judged: dict[str, Any]) -> Path:
    """A copy of the run beside ``site``."""
    return Path(shutil.copytree(installed.parent / "work", site.parent / "work"))


def _built(site: Path, code: str = BUILD) -> dict[str, Any]:
    done = plugin_package.forked(site, code, cwd=site.parent)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _lockstep(site: Path, *arguments: str) -> tuple[int, str]:
    code = f"import sys\nsys.argv = ['lockstep', '-C', 'work', *{arguments!r}]\nfrom release.cli import main\nmain()"
    done = plugin_package.forked(site, code, cwd=site.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_an_installed_package_adds_a_gate_and_a_scorer_and_the_verdict_names_its_code(
    site: Path, run: Path, judged: dict[str, Any]
) -> None:
    built = judged
    assert built["schema"] == ["ShortAnswers", "FirstWord"]
    assert built["changes"] == ["stronger", "weaker"]
    assert built["findings"]["brief"] == FINDING
    assert built["findings"]["begins"][0] == "pass"
    plugins = built["plugins"]
    assert list(plugins) == ["lockstep.gates:short-answers", "lockstep.scorers:first-word"]
    assert {(plugin["distribution"], plugin["version"]) for plugin in plugins.values()} == {("acme-kinds", "1.0")}
    stored = json.loads((run / layout.VERDICT).read_text())
    assert stored["plugins"] == plugins
    code, output = _lockstep(site, "gate")
    assert code == 0, output
    code, output = _lockstep(site, "gate", "--explain", "brief")
    assert code == 0, output
    assert "has every answer at most 3 words?" in output
    assert "gates.brief.words" in output


def test_an_installed_package_adds_a_suite_and_a_judge_and_the_report_names_its_code(site: Path) -> None:
    said = _built(site, SUITES)
    assert said.pop("plugins") == {"lockstep.suites:spaced": "acme-kinds", "lockstep.judges:length": "acme-kinds"}
    assert said == SUITES_SAID


def test_a_kind_is_one_file_in_the_folder_of_kinds(tmp_path: Path) -> None:
    added = {
        "gates/short_answers.py": SHORT_ANSWERS,
        "scorers/first_word.py": FIRST_WORD,
        "suites/spaced.py": SPACED,
        "judges/length.py": LENGTH,
    }
    for path, text in added.items():
        (tmp_path / "work/kinds" / path).parent.mkdir(parents=True)
        (tmp_path / "work/kinds" / path).write_text(text)
    site = tmp_path / "site"
    site.mkdir()
    built = _built(site)
    assert built["schema"] == ["ShortAnswers", "FirstWord"]
    assert built["changes"] == ["stronger", "weaker"]
    assert built["findings"]["brief"] == FINDING
    assert built["findings"]["begins"][0] == "pass"
    assert built["plugins"] == {}
    assert "plugins" not in json.loads((tmp_path / "work" / layout.VERDICT).read_text())
    assert _built(site, SUITES) == SUITES_SAID | {"plugins": {}}
    code, output = _lockstep(site, "gate", "--explain", "brief")
    assert code == 0, output
    assert "has every answer at most 3 words?" in output
    with (tmp_path / "work/kinds/scorers/first_word.py").open("a") as stream:
        stream.write("# an edit after the run\n")
    code, output = _lockstep(site, "gate")
    assert (code, "kinds/scorers/first_word.py: is not the code that git has" in output) == (8, True), output
    git(tmp_path / "work", "add", "kinds")
    code, output = _lockstep(site, "gate")
    assert (code, "code.lock: score ran other code than is here" in output) == (8, True), output
    shutil.rmtree(tmp_path / "work/kinds")
    code, output = _lockstep(site, "gate")
    assert (code, "unknown kind of gate 'short-answers'" in output) == (2, True), output


def _other_code(site: Path) -> None:
    with (site / "acme_kinds" / "short_answers.py").open("a") as stream:
        stream.write("# an edit\n")


def _other_helper(site: Path) -> None:
    (site / "acme_kinds" / "__init__.py").write_text("PATCHED = True\n")


def _emptied(site: Path) -> None:
    (site / "acme_kinds" / "first_word.py").unlink()


def _another_name(site: Path) -> None:
    """Another package has the name: as if somebody had published one."""
    shutil.rmtree(site)
    plugin_package.by_hand(site, "other-kinds", ENTRY_POINTS, PACKAGE)


VOID = {
    "other code": (_other_code, 8, "plugin lockstep.gates:short-answers: the installed acme-kinds 1.0 has the code "),
    "another package": (_another_name, 8, "the installed other-kinds 1.0 has the code "),
    "a file that is gone": (_emptied, 9, "package acme-kinds 1.0 adds 'first-word' to lockstep.scorers, which cannot"),
}


@pytest.mark.parametrize("how", VOID)
def test_a_verdict_is_void_where_other_code_is_installed(site: Path, run: Path, how: str) -> None:
    change, expected, line = VOID[how]
    change(site)
    code, output = _lockstep(site, "gate")
    assert code == expected, output
    assert line in output


def test_a_verdict_that_names_another_package_is_void(site: Path, run: Path) -> None:
    """A record that was edited by hand, so that it names no package or one of another digest."""
    path = run / layout.VERDICT
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "plugins": {}}))
    code, output = _lockstep(site, "gate")
    assert (code, "the verdict does not hold" in output) == (8, True), output
    kept["plugins"]["lockstep.gates:short-answers"]["sha256"] = "sha256:" + "0" * 64
    path.write_text(json.dumps(kept))
    code, output = _lockstep(site, "gate")
    assert (code, "with 000000000000" in output) == (8, True), output
    kept["plugins"] = {"short-answers\n": kept["plugins"]["lockstep.gates:short-answers"]}
    path.write_text(json.dumps(kept))
    code, output = _lockstep(site, "gate")
    assert (code, "plugins" in output) == (8, True), output


def test_a_package_that_cannot_be_used_is_refused_where_it_is_named(tmp_path: Path) -> None:
    site = tmp_path / "site"
    plugin_package.by_hand(site, "bad-kinds", {"lockstep.gates": {"short-answers": "acme_kinds.wrong"}}, PACKAGE)
    (tmp_path / "work").mkdir()
    params = (REPOSITORY / "params.yaml").read_text()
    named = params.replace("\ngates:\n", "\ngates:\n  brief: {kind: short-answers, words: 9}\n")
    (tmp_path / "work/params.yaml").write_text(named)
    code, output = _lockstep(site, "gate")
    assert (code, output.count("\n")) == (9, 1), output
    assert (
        "package bad-kinds 1.0 adds 'short-answers' to lockstep.gates, which reads 'minds', which is none of no rows, "
        "rows, answers; repair bad-kinds, or uninstall it"
    ) in output
    assert _lockstep(site, "--help")[0] == 0


BAD_RESULTS = {
    "another gate": ("gate=case.name", 'gate="begins"', "its kind answered as gate 'begins' of kind 'short-answers'"),
    "another kind": ("kind=self.kind", 'kind="license"', "its kind answered as gate 'brief' of kind 'license'"),
}


@pytest.mark.parametrize("how", BAD_RESULTS)
def test_a_kind_answers_for_its_own_gate_alone(site: Path, how: str) -> None:
    before, after, said = BAD_RESULTS[how]
    path = site / "acme_kinds" / "short_answers.py"
    path.write_text(path.read_text().replace(before, after))
    status, reason = _built(site)["findings"]["brief"]
    assert (status, said in reason) == ("fail", True), reason


def test_a_score_is_a_number_from_0_to_1(site: Path) -> None:
    path = site / "acme_kinds" / "first_word.py"
    path.write_text(
        path.read_text().replace("float(prediction.split()[:1] == reference.split()[:1])", "eval(prediction)")
    )
    wrong = ["2.0", "float('nan')", "float('inf')", "-0.5", "'1'", "None", "True", "1"]
    code = (
        "from checks.evaluation import scoring\nfrom checks.process.errors import ParamsRefused\nfrom checks.kinds.scorer import SCORERS\n"
        "scorer = SCORERS.kinds['first-word'](kind='first-word')\nassert scoring.score(scorer, '0.5', '') == 0.5\n"
        f"for value in {wrong!r}:\n"
        "    try:\n        scoring.score(scorer, value, '')\n"
        "    except ParamsRefused as refused:\n        print(refused)"
    )
    done = plugin_package.forked(site, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("evaluate.scorers: first-word gave ") == len(wrong), done.stdout


def test_other_code_of_a_scorer_is_another_evaluation(site: Path) -> None:
    code = (
        "from checks.evaluation import scoring\nfrom checks.kinds.scorer import SCORERS\n"
        "exact = SCORERS.kinds['exact-match'](kind='exact-match')\n"
        "print(scoring.digest_of([exact]), scoring.digest_of([exact, SCORERS.kinds['first-word'](kind='first-word')]))"
    )
    before = plugin_package.forked(site, code).stdout.split()
    _other_helper(site)
    after = plugin_package.forked(site, code).stdout.split()
    assert len(before) == len(after) == 2
    assert before[0] == after[0]
    assert before[1] != after[1]
