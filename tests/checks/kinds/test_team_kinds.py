"""Kinds in the folder ``kinds`` of a team's repository: loaded alone, each with its own text, and refused in one line."""

import json
import py_compile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.code import lock, modules
from checks.config import params_file
from checks.storage import layout
from release.record import committed_code
from tests import plugin_package
from tests.conftest import REPOSITORY
from tests.pipeline_repository import commit, git

BREVITY = """
from typing import Literal
from checks.kinds.scorer import ScorerKind

class Brevity(ScorerKind):
    kind: Literal["brevity"]

    def score(self, prediction, reference):
        return 1.0
"""
SCORE = """
from checks.kinds.scorer import SCORERS
from checks.process.errors import Refusal
try:
    print(SCORERS.kinds["brevity"](kind="brevity").score("", ""))
except Refusal as refusal:
    print(refusal)
"""
REFUSE = """
import json
from checks.config import params_file
from checks.kinds.gate import GATES
from checks.kinds.registry import refuse_broken
from checks.kinds.scorer import SCORERS
from checks.process.errors import Refusal
def refused(ask, *names):
    try:
        ask(*names)
    except Refusal as refusal:
        return [refusal.exit_code, str(refusal), *refusal.others]
"""
PLACES = "print(json.dumps(refused(refuse_broken)))"
# A kind that writes down that it ran.
MARKER = "from pathlib import Path\nPath('ran').open('a').write(__name__ + ' ')\n"


def _write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / "kinds" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "kinds" / path).write_text(text)


def _python(root: Path, code: str) -> str:
    """Run code in the folder, which Python also imports modules from."""
    done = plugin_package.python(root, code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# What is refused as soon as parameters are read, whatever they name.
REFUSED = {
    "a name that Lockstep has": (
        "scorers/token_f1.py", BREVITY.replace("brevity", "token-f1"),
        "adds 'token-f1' to lockstep.scorers, which is a kind of Lockstep; rename kinds/scorers/token_f1.py",
    ),
    "a folder that is no group": ("scorer/brevity.py", BREVITY, ": there is no group scorer; use one of chat_templates, "),
    "no folder": ("brevity.py", BREVITY, ": is not named as a kind of this repository; move the file to kinds/GROUP/NAME.py"),
    "a folder too deep": ("scorers/more/brevity.py", BREVITY, ": is not named as a kind of this repository; move the file"),
    "a helper": ("scorers/_helper.py", "", ": is not named as a kind of this repository; move the file to"),
}  # fmt: skip
# What is refused when a parameter names it.
REFUSED_WHEN_NAMED = {
    "another name than the file's": (
        "scorers/short.py", BREVITY,
        "adds 'short' to lockstep.scorers, which calls itself 'brevity'; repair kinds/scorers/short.py",
    ),
    "an import of its neighbour": (
        "scorers/copied.py", "from kinds.scorers import brevity\n",
        ("adds 'copied' to lockstep.scorers, which cannot be imported: MachineRefused: import of kinds: a file of kinds/ "
        "cannot import another one; move what both need to a package, and install it; repair kinds/scorers/copied.py"),
    ),
    "an import of its folder": (
        "scorers/beside.py", "from . import brevity\n",
        ("adds 'beside' to lockstep.scorers, which cannot be imported: ImportError: attempted relative import with no known "
        "parent package; repair kinds/scorers/beside.py"),
    ),
    "no class": (
        "gates/empty.py", "X = 1\n",
        ("adds 'empty' to lockstep.gates, which defines 0 classes below checks.kinds.gate.GateKind and must define one; "
        "repair kinds/gates/empty.py"),
    ),
}  # fmt: skip


@pytest.mark.slow
def test_files_that_are_no_kind_are_refused_in_one_line_each(tmp_path: Path) -> None:
    _write(
        tmp_path, {path: text for path, text, _ in REFUSED.values()} | {"scorers/brevity.py": BREVITY, "README.md": ""}
    )
    code, *lines = json.loads(_python(tmp_path, REFUSE + PLACES))
    starts = {f"kinds/{path}{'' if line.startswith(':') else ' '}{line}" for path, _, line in REFUSED.values()}
    assert (code, len(lines)) == (9, len(REFUSED)), lines
    assert {start for start in starts if not any(line.startswith(start) for line in lines)} == set()


@pytest.mark.slow
@pytest.mark.parametrize(("path", "text", "line"), REFUSED_WHEN_NAMED.values(), ids=list(REFUSED_WHEN_NAMED))
def test_a_file_that_holds_no_kind_is_refused_in_one_line_when_it_is_named(
    tmp_path: Path, path: str, text: str, line: str
) -> None:
    _write(tmp_path, {path: text})
    group, file = path.split("/")
    named = f"print(json.dumps(refused({group.upper()}.kinds.get, {Path(file).stem!r})))"
    assert _python(tmp_path, REFUSE + "assert refused(refuse_broken) is None\n" + named) == json.dumps(
        [9, f"kinds/{path} {line}"]
    )


STAGE = f"""
import json, sys
from pathlib import Path
from checks.config import params_file
from checks.kinds.registry import refuse_broken
text = Path({str(REPOSITORY / "params.yaml")!r}).read_text()
def read(scorer):
    params = params_file.parse(text.replace("\\n  scorers:\\n", "\\n  scorers:\\n    - {{kind: " + scorer + "}}\\n"))
    return [json.loads(json.dumps(params.resolved()))["evaluate"]["scorers"][0], Path("ran").read_text() if Path("ran").exists() else ""]
"""


@pytest.mark.slow
def test_a_file_runs_only_if_a_parameter_names_its_kind(tmp_path: Path) -> None:
    evil = "from checks.kinds.scorer import ScorerKind\n" + MARKER
    groups = sorted({folder.rpartition("/")[2] for folder in modules.KINDS.values()} | {"sections", "logs", "sources"})
    _write(
        tmp_path,
        {f"{group}/evil.py": evil for group in groups if group != "schemes"}
        | {"scorers/brevity.py": MARKER + BREVITY.replace('"brevity"]', '"brevity"]\n    most: int = 9')},
    )
    asked = "print(json.dumps([read('json-valid'), read('brevity'), read('brevity')]))"
    without, named, again = json.loads(_python(tmp_path, STAGE + asked))
    assert without == [{"kind": "json-valid"}, ""]
    assert named == again == [{"kind": "brevity", "most": 9}, "kinds/scorers/brevity "]


@pytest.mark.slow
def test_a_stage_runs_no_file_that_params_yaml_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    _write(tmp_path, {"scorers/evil.py": MARKER, "loaders/evil.py": MARKER})
    _python(tmp_path, "from stages import code, entry\nentry.run('code', code.code)")
    assert (tmp_path / "code.lock").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_errors_in_a_named_kind_say_line_and_key(tmp_path: Path) -> None:
    _write(tmp_path, {"scorers/brevity.py": BREVITY})
    asked = "from checks.process.errors import Refusal\ntry:\n    read('brevity, utterly: 3')\nexcept Refusal as refusal:\n    print(refusal)"
    line = (REPOSITORY / "params.yaml").read_text().split("\n  scorers:\n")[0].count("\n") + 3
    assert _python(tmp_path, STAGE + asked) == f"params.yaml:{line}: evaluate.scorers.0.utterly: unknown key; remove it"


@pytest.mark.slow
@pytest.mark.parametrize("link", ["kinds/scorers/brevity.py", "kinds"])
def test_a_link_is_refused_because_what_it_points_at_is_not_what_git_has(tmp_path: Path, link: str) -> None:
    _write(tmp_path, {"scorers/brevity.py": BREVITY})
    (tmp_path / link).rename(tmp_path / "elsewhere")
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    code, line = json.loads(_python(tmp_path, REFUSE + PLACES))
    assert (code, line) == (
        9,
        "kinds/scorers/brevity.py: is a link, or lies below one; replace it with what it points at",
    )


@pytest.mark.slow
def test_a_kind_that_a_package_adds_too_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, {"scorers/brevity.py": BREVITY})
    plugin_package.by_hand(tmp_path, "acme", {"lockstep.scorers": {"brevity": "acme"}}, {"acme.py": BREVITY})
    _, line = json.loads(_python(tmp_path, REFUSE + PLACES))
    assert line == (
        "kinds/scorers/brevity.py adds 'brevity' to lockstep.scorers, which package acme 1.0 adds too; "
        "rename kinds/scorers/brevity.py"
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["import kinds.scorers.other", "__import__('kinds.scorers.other')"])
def test_a_late_import_of_a_neighbour_is_refused_when_it_runs(tmp_path: Path, way: str) -> None:
    late = BREVITY.replace("return", f"{way}\n        return")
    _write(tmp_path, {"scorers/brevity.py": late, "scorers/other.py": BREVITY.replace("brevity", "other")})
    assert _python(tmp_path, SCORE).startswith("import of kinds: a file of kinds/ cannot import another one; move what")


@pytest.mark.slow
def test_the_text_of_a_kind_runs_and_no_bytecode_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kinds/scorers/brevity.py"
    _write(tmp_path, {"scorers/brevity.py": BREVITY.replace("1.0", "0.5")})
    py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    path.write_text(BREVITY)
    assert _python(tmp_path, SCORE) == "1.0"


# code.lock

CODE = modules.below(REPOSITORY)
PARAMS = params_file.load(REPOSITORY / layout.PARAMS).resolved()


class Named(NamedTuple):
    """Parameters that name kinds which are not installed."""

    values: dict[str, Any]

    def resolved(self) -> dict[str, Any]:
        """Return them."""
        return self.values

    def written(self) -> dict[str, Any]:
        """Return them."""
        return self.values

    def unwritten(self) -> dict[str, Any]:
        """Return no defaults."""
        return {}


NAMED = {**PARAMS, "evaluate": {"scorers": [{"kind": "brevity"}]}}
KIND = {"kinds/scorers/brevity.py": BREVITY.encode()}


def _stale(params: dict, before: modules.Code, after: modules.Code) -> set[str]:
    old, new = (lock.of(Named(params), {**CODE, **code}) for code in (before, after))
    return {stage for stage in old if old[stage] != new[stage]}


@pytest.mark.parametrize("group", sorted({folder.rpartition("/")[2] for folder in modules.KINDS.values()}))
def test_a_kind_that_no_parameter_names_makes_nothing_stale(group: str) -> None:
    assert _stale(PARAMS, {}, {f"kinds/{group}/brevity.py": b"X = 1\n"}) == set()


def test_a_kind_that_is_named_makes_the_stages_stale_that_name_it() -> None:
    edited = {"kinds/scorers/brevity.py": BREVITY.encode() + b"\n"}
    assert _stale(NAMED, KIND, edited) == {"score", "evaluate", "gate"}
    assert _stale(NAMED, KIND, {}) == {"score", "evaluate", "gate"}
    # A file of this name in another group is another kind.
    assert _stale(NAMED, KIND, {**KIND, "kinds/judges/brevity.py": b"X = 1\n"}) == set()


def test_a_source_is_named_by_its_scheme_and_a_method_counts_late_for_training_alone() -> None:
    params = {**PARAMS, "data": {"uri": "copy://rows"}, "train": {"method": "liking"}}
    added = {"kinds/sources/copy.py": b"X = 1\n", "kinds/methods/liking.py": b"def f():\n    import checks.extra\n"}
    assert _stale(params, {}, added) >= {"fetch", "prepare", "validate", "train"}
    extra = [{**added, "checks/extra.py": text} for text in (b"X = 1\n", b"X = 2\n")]
    assert _stale(params, *extra) == {"train"}


@pytest.mark.parametrize("way", ["from checks import extra\n", "def f():\n    import checks.extra\n"])
def test_what_a_kind_imports_of_lockstep_counts_with_it(way: str) -> None:
    codes = [{"kinds/scorers/brevity.py": way.encode(), "checks/extra.py": text} for text in (b"X = 1\n", b"X = 2\n")]
    assert _stale(NAMED, *codes) == {"score", "evaluate", "gate"}


@pytest.mark.parametrize("folder", modules.KINDS.values())
def test_a_kind_of_each_group_is_in_the_digest_of_a_stage_that_names_it(folder: str) -> None:
    group = modules.groups([next(finder for finder, place in modules.KINDS.items() if place == folder)]).pop()
    params = {**PARAMS, **{key: [PARAMS[key], "brevity"] for key in ("prepare", "train", "evaluate", "suites")}}
    named = {**params, "gates": [PARAMS["gates"], "brevity"], "data": [PARAMS["data"], "brevity"], "base": ["brevity"]}
    assert _stale(named, {}, {f"kinds/{group}/brevity.py": b"X = 1\n"}) != set()


def test_a_section_of_the_team_counts_for_the_stages_that_run_a_kind_of_the_team() -> None:
    section = {"kinds/sections/notify.py": b"from checks import extra\n", "checks/extra.py": b"X = 1\n"}
    edits = [{**section, path: text + b"Y = 2\n"} for path, text in section.items()]
    written = {**NAMED, "notify": {"room": "Ada"}}
    for edit in edits:
        assert _stale(written, {**KIND, **section}, {**KIND, **edit}) == {"score", "evaluate", "gate"}
        assert _stale({**written, "notify": None}, {**KIND, **section}, {**KIND, **edit}) == set()
        # Nothing of Lockstep reads it.
        assert _stale({**PARAMS, "notify": {"room": "Ada"}}, section, edit) == set()


def test_a_record_is_compared_with_the_kinds_of_its_commit_and_not_of_the_work_tree(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    _write(tmp_path, {"scorers/brevity.py": BREVITY})
    ran = lock.of(Named(NAMED), lock.at(tmp_path))
    stages = {stage: {"params": {"code.lock": {lock.key(stage): ran[stage]}}} for stage in ran}

    def differing() -> set[str]:
        lines = committed_code.differences(tmp_path, git(tmp_path, "rev-parse", "HEAD").strip(), Named(NAMED), stages)  # type: ignore[arg-type]
        return {line.split(": ")[1].split()[0] for line in lines}

    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "no kind")
    assert differing() == {"score", "evaluate", "gate"}  # The kind that ran is not committed.
    commit(tmp_path, "the kind")
    assert differing() == set()
    _write(tmp_path, {"scorers/brevity.py": BREVITY + "\n# edited after the run\n"})
    assert differing() == set()  # The commit decides. That the work tree has it too is the running code's check.
    commit(tmp_path, "an edit")
    assert differing() == {"score", "evaluate", "gate"}
    # A file at the place of a module of Lockstep is not taken for it.
    _write(tmp_path, {"scorers/brevity.py": BREVITY})
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/__init__.py").write_text("X = 1\n")
    commit(tmp_path, "a package of the team")
    assert differing() == set()


NAMELESS_RULE = """
from checks.kinds.rule import Rule

class DropShouting(Rule):
    does = "the prompt is in capital letters"

    def drop(self, draft):
        return draft.prompt.isupper()
"""


@pytest.mark.slow
def test_a_rule_without_a_name_is_called_after_its_file(tmp_path: Path) -> None:
    _write(tmp_path, {"rules/drop_shouting.py": NAMELESS_RULE})
    printed = _python(tmp_path, "from checks.kinds.rule import RULES\nprint(RULES.kinds['drop-shouting'].name)")
    assert printed == "drop-shouting"
