"""Kinds from packages of users: found in one order, told by the digest of their code, refused in one line."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from checks.process import distribution
from tests import plugin_package

pytestmark = pytest.mark.slow

GROUP = "lockstep.colours"
# A package of Lockstep with two kinds and a helper.
OWN = {
    "house/__init__.py": "",
    "house/base.py": "import abc\nclass Colour(abc.ABC):\n    name = ''\n    @abc.abstractmethod\n    def mix(self): ...\n",
    "house/colours/__init__.py": "",
    "house/colours/red.py": "from house.base import Colour\nclass Red(Colour):\n    name = 'red'\n    def mix(self): ...\n",
    "house/colours/blue.py": "from house.base import Colour\nclass Blue(Colour):\n    name = 'blue'\n    def mix(self): ...\n",
    "house/colours/_helper.py": "raise RuntimeError('helpers are no kinds')\n",
}
GREEN = "from house.base import Colour\nclass Green(Colour):\n    name = 'green'\n    def mix(self): ...\n"
COLLECT = f"""
import json, sys
from checks.kinds import plugins
from checks.kinds.registry import Registry, refuse_broken
import house.base, house.colours
from checks.process.errors import Refusal
found = Registry({GROUP!r}, house.base.Colour, lambda kind: kind.name)
"""
SAY = """
refused = []
def ask(what, *names):
    try:
        what(*names)
    except Refusal as refusal:
        refused.extend([str(refusal), *refusal.others])
        assert refusal.exit_code == 9
assert not any(module.startswith("acme") for module in sys.modules)
ask(refuse_broken)
for name in found.names:
    ask(found.kinds.get, name)
if refused:
    print(json.dumps({"refused": refused, "kinds": list(found.kinds)}))
else:
    of = {name: plugin.model_dump() for name, plugin in found.plugins(found.kinds).items()}
    print(json.dumps({"kinds": list(found.kinds), "plugins": of}))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    for path, text in OWN.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    plugin_package.by_hand(
        folder, distribution.NAME, {"lockstep_kinds": {GROUP.removeprefix("lockstep."): "house.colours"}}, {}
    )
    return folder


def _found(site: Path) -> dict:
    done = plugin_package.python(site, COLLECT + SAY)
    assert done.returncode == 0, done.stderr
    answer: dict = json.loads(done.stdout)
    return answer


def _add(site: Path, kinds: Mapping[str, str], name: str = "acme-colours", **files: str) -> Path:
    return plugin_package.by_hand(site, name, {GROUP: kinds}, {f"{module}.py": text for module, text in files.items()})


def test_without_packages_of_users_there_are_the_modules_of_the_folder_in_order(site: Path) -> None:
    assert _found(site) == {"kinds": ["blue", "red"], "plugins": {}}


def test_an_installation_from_before_a_folder_of_kinds_is_refused(site: Path) -> None:
    (site / "lockstep_llm-1.0.dist-info" / "entry_points.txt").write_text("[lockstep_kinds]\nshapes = house.shapes\n")
    done = plugin_package.python(
        site, COLLECT + "try:\n    found.kinds\nexcept Refusal as refusal:\n    print(refusal, refusal.todo)\n"
    )
    assert done.stdout.startswith(
        "the installed lockstep-llm does not say where its colours are: it was installed before"
    )
    assert "run ./lockstep" in done.stdout


def test_a_kind_of_lockstep_is_imported_when_it_is_looked_up(site: Path) -> None:
    (site / "house" / "colours" / "black.py").write_text("raise ValueError('two\\nlines')\n")
    script = (
        "refuse_broken()\nassert found.names == ('black', 'blue', 'red')\nassert found.kinds['red'].name == 'red'\n"
        "assert 'house.colours.blue' not in sys.modules\n"
        "try:\n    found.kinds['black']\nexcept Refusal as refusal:\n    print(refusal)\n"
    )
    done = plugin_package.python(site, COLLECT + script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "Lockstep adds 'black' to lockstep.colours, which cannot be imported: ValueError: two lines; install it again"
    )


def test_a_package_that_pip_installed_adds_a_kind_and_its_code_has_a_digest(site: Path, tmp_path: Path) -> None:
    entry_points = {GROUP: {"green": "acme.green:Green"}}
    files = {"acme/__init__.py": "", "acme/green.py": GREEN}
    plugin_package.by_pip(site, tmp_path / "work", "acme-colours", entry_points, files)
    found = _found(site)
    assert found["kinds"] == ["blue", "red", "green"]
    plugin = found["plugins"][f"{GROUP}:green"]
    assert (plugin["distribution"], plugin["version"]) == ("acme-colours", "1.0")
    # Another installer writes the same code: the same digest.
    other = tmp_path / "other"
    shutil.copytree(site, other, ignore=shutil.ignore_patterns("acme_colours-*.dist-info", "__pycache__", "acme"))
    info = plugin_package.by_hand(other, "acme-colours", entry_points, files)
    shutil.copy(next(site.glob("acme_colours-*.dist-info")) / "entry_points.txt", info)
    assert _found(other) == found


def test_a_module_with_one_class_will_do(site: Path) -> None:
    _add(site, {"green": "acme"}, acme=GREEN)
    assert _found(site)["kinds"] == ["blue", "red", "green"]


@pytest.mark.parametrize("changed", ["acme.py", "helper.py", "dist-info/entry_points.txt"])
def test_other_code_is_another_digest(site: Path, changed: str) -> None:
    info = _add(site, {"green": "acme"}, acme=GREEN, helper="")
    before = _found(site)["plugins"]
    path = site / changed if "/" not in changed else info / "entry_points.txt"
    path.write_text(path.read_text() + "\n# more\n")
    after = _found(site)["plugins"]
    assert before.keys() == after.keys()
    assert before != after


def test_how_it_was_installed_is_no_part_of_the_digest(site: Path) -> None:
    info = _add(site, {"green": "acme"}, acme=GREEN)
    before = _found(site)["plugins"]
    (info / "INSTALLER").write_text("another\n")
    (site / "__pycache__").mkdir(exist_ok=True)
    (site / "__pycache__" / "acme.cpython-399.pyc").write_bytes(b"x")
    with (info / "RECORD").open("a") as record:
        record.write("__pycache__/acme.cpython-399.pyc,,\n../../bin/acme,,\n")
    assert _found(site)["plugins"] == before


_REPAIR = "repair acme-colours, or uninstall it"
REFUSED = {
    "a name that Lockstep has": (
        "red", "acme", GREEN, "is a kind of Lockstep",
        "rename it in the entry points of acme-colours, or uninstall acme-colours",
    ),
    "a module that is not there": (
        "green", "gone", GREEN, "cannot be imported: ModuleNotFoundError: No module named 'gone'", _REPAIR,
    ),
    "a module that fails": (
        "green", "acme", "raise ValueError('two\\nlines')", "cannot be imported: ValueError: two lines", _REPAIR,
    ),
    "a module that exits": ("green", "acme", "raise SystemExit(0)", "cannot be imported: SystemExit: 0", _REPAIR),
    "no such class": (
        "green", "acme", "class Green: name = 'green'",
        "defines 0 classes below house.base.Colour and must define one", _REPAIR,
    ),
    "two classes": (
        "green", "acme", GREEN + "class Other(Green): ...\n",
        "defines 2 classes below house.base.Colour and must define one", _REPAIR,
    ),
    "another class": (
        "green", "acme:Green", "class Green: name = 'green'",
        "is not a class below house.base.Colour, and no module that defines one", _REPAIR,
    ),
    "a class that lacks a method": (
        "green", "acme:Green", "from house.base import Colour\nclass Green(Colour): name = 'green'",
        "does not define mix", _REPAIR,
    ),
    "a name that is none": (
        "Green!", "acme", GREEN, "is not a valid name of a kind: use at most 60 lower-case letters, digits, - and _", _REPAIR,
    ),
    "another name than its own": ("lime", "acme", GREEN, "calls itself 'green'", _REPAIR),
}  # fmt: skip


def test_packages_that_cannot_be_used_are_refused_in_one_line_each(site: Path) -> None:
    expected = set()
    for number, case in enumerate(REFUSED.values()):
        texts = (text.replace("green", f"green{number}").replace("acme", f"acme{number}") for text in case)
        name, value, code, why, fix = texts
        _add(site, {name: value}, f"acme{number}-colours", **{f"acme{number}": code})
        expected.add(f"package acme{number}-colours 1.0 adds {name!r} to lockstep.colours, which {why}; {fix}")
    answer = _found(site)
    assert set(answer["refused"]) == expected
    assert answer["kinds"] == ["blue", "red"]


def test_two_packages_with_one_name_are_refused(site: Path) -> None:
    _add(site, {"green": "acme"}, acme=GREEN)
    _add(site, {"green": "bolt"}, "bolt-colours", bolt=GREEN)
    (said,) = _found(site)["refused"]
    assert said == (
        "package bolt-colours 1.0 adds 'green' to lockstep.colours, which package acme-colours 1.0 adds too; "
        "rename it in the entry points of bolt-colours, or uninstall bolt-colours"
    )


def test_code_that_no_record_lists_is_refused(site: Path) -> None:
    """As an installation with -e leaves it: the record lists a path file, and the code lies elsewhere."""
    info = _add(site, {"green": "acme"}, acme=GREEN)
    record = info / "RECORD"
    record.write_text(record.read_text().replace("acme.py,,\n", ""))
    (said,) = _found(site)["refused"]
    assert "runs acme, which RECORD does not list: install the package without -e, so that it does" in said
    record.unlink()
    (said,) = _found(site)["refused"]
    assert "cannot be hashed: has no RECORD of its files" in said


def _differences(site: Path, recorded: dict) -> list[str]:
    code = (
        "import json, sys\nfrom checks.kinds import plugins\n"
        f"recorded = {{name: plugins.Plugin(**value) for name, value in {recorded!r}.items()}}\n"
        "print(json.dumps(plugins.differences(recorded)))\nassert 'acme' not in sys.modules"
    )
    done = plugin_package.python(site, code)
    assert done.returncode == 0, done.stderr
    lines: list[str] = json.loads(done.stdout)
    return lines


def test_evidence_is_held_to_the_code_that_is_installed(site: Path) -> None:
    info = _add(site, {"green": "acme"}, acme=GREEN)
    recorded = _found(site)["plugins"]
    assert _differences(site, recorded) == []
    (site / "acme.py").write_text(GREEN + "# other\n")
    (changed,) = _differences(site, recorded)
    assert changed.startswith("plugin lockstep.colours:green: the installed acme-colours 1.0 has the code ")
    assert "the record is about acme-colours 1.0 with " in changed
    (site / "acme.py").unlink()
    (unreadable,) = _differences(site, recorded)
    assert "acme.py" in unreadable
    assert unreadable.endswith("; install acme-colours again with pip")
    shutil.rmtree(info)
    (gone,) = _differences(site, recorded)
    assert gone == "plugin lockstep.colours:green: package acme-colours 1.0 is not installed"
