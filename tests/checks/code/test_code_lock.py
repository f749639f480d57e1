"""code.lock: which edits of the code make which stages stale, what it cannot be made to say, and how it is refused."""

import ast
import shutil
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.code import lock, modules
from checks.config import params_file
from checks.kinds import plugins, registry
from checks.process.errors import EvidenceRefused
from checks.storage import digest, layout
from stages import entry
from stages.sources import parsing
from tests import plugin_package
from tests.conftest import REPOSITORY, as_params, scaled_down

CODE = modules.below(REPOSITORY)
GIVEN = params_file.load(REPOSITORY / layout.PARAMS)
PARAMS = GIVEN.resolved()
DIGESTS = lock.of(GIVEN, CODE)


class Changed(NamedTuple):
    """Parameters of which some have other values, or other defaults."""

    values: dict[str, Any] = PARAMS
    defaults: dict[str, Any] = GIVEN.unwritten()

    def resolved(self) -> dict[str, Any]:
        return self.values

    def written(self) -> dict[str, Any]:
        raise AssertionError("no digest asks this")

    def unwritten(self) -> dict[str, Any]:
        return self.defaults


def _stale(code: modules.Code) -> set[str]:
    changed = lock.of(GIVEN, code)
    return {stage for stage in DIGESTS if changed[stage] != DIGESTS[stage]}


EDITS = {
    "checks/scorers/token_f1.py": {"score", "evaluate", "gate"},
    "checks/scorers/contains.py": {"suites", "gate"},
    "checks/scorers/edit_similarity.py": set(),
    "checks/rules/drop_duplicates.py": {"prepare", "validate"},
    "checks/rules/trim_ends.py": {"validate"},
    "checks/rules/mask_personal_data.py": set(),
    "checks/rules/drop_empty_prompt.py": {"prepare", "validate"},
    "checks/gates/improves.py": {"gate"},
    "checks/gates/exposure.py": set(),
    "checks/suites/loss.py": {"suites", "gate"},
    "checks/suites/rag.py": set(),
    "checks/chat_templates/gemma.py": set(),
    "stages/sources/schemes/pypi.py": {"fetch", "validate"},
    "stages/sources/schemes/hf.py": set(),
    "stages/loaders/table.py": {"prepare", "validate"},
    "stages/loaders/documents.py": set(),
    "stages/training/methods/sft.py": {"prepare", "validate", "train"},
    "stages/training/methods/dpo.py": set(),
    "stages/training/trainer.py": {"train"},
    "stages/judges/openai.py": set(),
    "stages/inference/generate.py": {"score", "evaluate", "suites", "probe"},
    "stages/entry.py": set(),
    "stages/tracking/store.py": set(),
    "checks/storage/digest.py": set(lock.READS),
}


@pytest.mark.parametrize("path", EDITS)
def test_an_edited_module_makes_exactly_the_stages_stale_that_run_it(path: str) -> None:
    assert _stale({**CODE, path: CODE[path] + b"\n# edited\n"}) == EDITS[path]


def test_a_new_kind_in_every_folder_of_kinds_makes_nothing_stale() -> None:
    added = {f"{folder}/brand_new.py": b"X = 1\n" for folder in modules.KINDS.values()}
    assert _stale({**CODE, **added}) == set()


def test_a_kind_that_params_yaml_names_in_future_is_covered_by_its_name() -> None:
    code = {**CODE, "checks/scorers/brand_new.py": b"from checks.data import canaries\n"}
    document = scaled_down()
    document["evaluate"]["scorers"].append({"kind": "regex", "pattern": "a"})
    named = lock.modules_of("score", as_params(document).resolved(), code)
    assert "checks/scorers/regex.py" in named
    assert "checks/scorers/brand_new.py" not in named


def test_kinds_of_a_chain_of_methods_count_for_the_stages_that_read_them() -> None:
    params = {"train": {"method": ["sft", "dpo"]}, "data": {}, "prepare": {}}
    assert "stages/training/methods/dpo.py" in lock.modules_of("prepare", params, CODE)


def test_the_packages_around_a_folder_of_kinds_count_because_they_run_when_its_kinds_are_found() -> None:
    named = lock.modules_of("prepare", {"train": {"method": "sft"}, "data": {}, "prepare": {}}, CODE)
    assert {"stages/loaders/__init__.py", "stages/training/__init__.py", "checks/rules/__init__.py"} <= set(named)


def test_the_folders_of_kinds_are_all_that_the_product_searches() -> None:
    parsing.kinds()
    for finder in modules.KINDS:
        import_module(finder.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    searched = set()
    for group, declared in registry._declared.items():
        for name in declared.kinds.keys() - declared.outside.keys():
            module = sys.modules[declared.kinds[name].__module__]
            path = Path(str(module.__file__)).relative_to(REPOSITORY)
            if path.parts[0] != "release":
                searched.add(path.parent.as_posix())
                assert path.stem == name.replace("-", "_"), f"{group}: the file of {name} has another name"
    assert searched == set(modules.KINDS.values())


def _parsed(code: bytes) -> set[str]:
    """What Python's own parser says that a module imports."""
    names = set[str]()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith(("checks.", "stages."))}


def test_every_import_is_found_that_pythons_own_parser_finds() -> None:
    missing = {path: _parsed(code) - set(modules.imported(code, late=True)) for path, code in CODE.items()}
    assert {path: names for path, names in missing.items() if names} == {}


WAYS = {
    "in a function": b"def f():\n    from checks import extra\n",
    "after a semicolon": b"x = 1; from checks import extra\n",
    "after a colon": b"if True: import checks.extra\n",
    "over several lines": b"from checks import (  # why\n    digest,\n    extra as e,\n)\n",
    "over a broken line": b"from checks import digest, \\\n    extra\n",
    "with another name": b"import numpy as np, checks.extra as e\n",
    "from a module": b"from checks.extra import Thing\n",
    "by its name": b"from importlib import import_module\nx = import_module('checks.extra')\n",
    "as a process": b'run([python, "-m", "checks.extra"])\n',
    "without a space": b"from checks import(extra)\n",
    "by tabs": b"def f():\n\tfrom\tchecks\timport\textra\n",
    "with carriage returns": b"x = 1\r\nfrom checks import extra\r\n",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_module_is_found_however_it_is_imported(way: str) -> None:
    code = {**CODE, "checks/extra.py": b"X = 1\n", "stages/probe.py": CODE["stages/probe.py"] + WAYS[way]}
    assert "checks/extra.py" in lock.modules_of("probe", PARAMS, code)


def test_a_late_import_in_a_function_is_followed_to_what_it_imports_late() -> None:
    late = b"def f():\n    from checks import extra\n"
    code = {
        **CODE, "stages/probe.py": CODE["stages/probe.py"] + late,
        "checks/extra.py": b"def g():\n    if True:\n        import checks.further as h\n", "checks/further.py": b"X = 1\n",
    }  # fmt: skip
    before, after = (lock.of(GIVEN, {**code, "checks/further.py": text}) for text in (b"X = 1\n", b"X = 2\n"))
    assert {stage for stage in before if before[stage] != after[stage]} == {"probe"}


def test_a_kind_of_a_package_counts_with_the_digest_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"lockstep.scorers": {"brevity": "acme.brevity"}}
    plugin_package.by_hand(tmp_path, "acme", points, {"acme/__init__.py": "", "acme/brevity.py": "X = 1\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_every_entry_point", metadata.entry_points)
    monkeypatch.setattr(plugins, "entry_points", plugins.entry_points.__wrapped__)
    params = Changed({**PARAMS, "evaluate": {"scorers": [{"kind": "brevity"}]}})
    named, unnamed = lock.of(params, CODE), lock.of(GIVEN, CODE)
    (tmp_path / "acme/brevity.py").write_text("X = 2\n")
    changed = lock.of(params, CODE)
    assert {stage for stage in named if changed[stage] != named[stage]} == {"score", "evaluate", "gate"}
    assert lock.of(GIVEN, CODE) == unnamed


def test_a_section_of_a_package_counts_for_the_stages_that_run_a_kind_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin_package.by_hand(tmp_path, "acme", {"lockstep.scorers": {"brevity": "acme"}}, {"acme.py": ""})
    section = {"lockstep.sections": {"notify": "acme_notify"}}
    plugin_package.by_hand(tmp_path, "acme-notify", section, {"acme_notify.py": "X = 1\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_every_entry_point", metadata.entry_points)
    monkeypatch.setattr(plugins, "entry_points", plugins.entry_points.__wrapped__)
    values = {**PARAMS, "evaluate": {"scorers": [{"kind": "brevity"}]}}
    cases = [Changed(values), Changed({**values, "notify": {"room": "Ada"}})]
    before = [lock.of(params, CODE) for params in cases]
    (tmp_path / "acme_notify.py").write_text("X = 2\n")
    after = [lock.of(params, CODE) for params in cases]
    unwritten, written = (
        {stage for stage in old if new[stage] != old[stage]} for old, new in zip(before, after, strict=True)
    )
    assert unwritten == set()
    assert written >= {"score", "evaluate", "gate"}
    assert "merge" not in written


def _with_other_default(section: str, values: dict[str, Any]) -> set[str]:
    """Return the stages that are stale in a version of Lockstep with these defaults of a section, too."""
    others = {f"{section}.{key}": value for key, value in values.items()}
    changed = lock.of(Changed(defaults=GIVEN.unwritten() | others), CODE)
    return {stage for stage in DIGESTS if changed[stage] != DIGESTS[stage]}


def test_another_default_makes_the_stages_stale_that_read_it() -> None:
    assert _with_other_default("merge", {"shard_mb": 5000}) == {"merge"}
    assert _with_other_default("train", {"optimizer": "adafactor"}) == {"train"}
    assert _with_other_default("evaluate", {"confidence": 0.9}) == {"score", "evaluate"}


def test_a_value_that_is_written_is_no_default_and_dvc_lock_records_it() -> None:
    assert "r" in PARAMS["train"]["lora"]
    assert "train.lora.r" not in GIVEN.unwritten()


def test_a_parameter_that_is_off_by_default_changes_nothing_when_a_version_adds_it() -> None:
    assert _with_other_default("train", {"novelty": None, "further": False}) == set()
    assert GIVEN.unwritten()["train.optimizer"] == "adamw_torch"


# code.lock as a file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / layout.PARAMS, tmp_path)
    lock.write(tmp_path, GIVEN, {})
    return tmp_path


def _edit(change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda root: (root / layout.CODE_LOCK).write_text(change((root / layout.CODE_LOCK).read_text()))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda root: (root / layout.CODE_LOCK).unlink(), "code.lock: is missing"),
    "empty": (_edit(lambda _: ""), "code.lock: "),
    "not YAML": (_edit(lambda _: "{"), "code.lock: "),
    "tags": (_edit(lambda _: "!!python/name:os.system"), "code.lock: "),
    "another digest": (
        _edit(lambda text: text.replace(DIGESTS["train"], digest.of_bytes(b""))),
        "code.lock: names other code for train than the code here",
    ),
    "no digest": (_edit(lambda text: text.replace(DIGESTS["train"], "none")), "code.lock: stages.train"),
    "a stage less": (
        _edit(lambda text: "".join(line for line in text.splitlines(True) if "train" not in line)),
        "code.lock: names other code for train than the code here",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_stage_refuses_before_it_works_where_the_file_names_other_code(root: Path, how: str) -> None:
    lock.hold(root, "train", GIVEN)
    spoil, message = REFUSED[how]
    spoil(root)
    with pytest.raises(EvidenceRefused, match=message) as refused:
        lock.hold(root, "train", GIVEN)
    assert refused.value.todo == "run `lockstep run`"


@pytest.mark.parametrize(
    ("address", "refuses"), [("train", True), ("dvc.yaml:train", True), ("merge", False), (None, False)]
)
def test_only_the_stage_that_dvc_will_record_asks_for_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, refuses: bool
) -> None:
    (root / layout.CODE_LOCK).unlink()
    monkeypatch.chdir(root)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if address is not None:
        monkeypatch.setenv("DVC_STAGE", address)
    ran = []

    def stage(*_: object) -> str:
        ran.append("train")
        return "done"

    if refuses:
        with pytest.raises(SystemExit) as ended:
            entry.run("train", stage)
        assert ended.value.code == EvidenceRefused.exit_code
    else:
        entry.run("train", stage)
    assert ran == ([] if refuses else ["train"])
