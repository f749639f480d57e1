"""Sections of params.yaml that packages and teams add: strict as any, in the schema, policy, and never Lockstep's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import plugin_package
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

SECTION = """
from typing import Annotated
from pydantic import Field
from checks.kinds.section import AddedSection
from checks.records.sections import Section

class Channel(Section):
    room: str

class Notify(AddedSection):
    section = "notify"
    channel: Channel
    most: Annotated[int, Field(ge=1, description="most messages")] = 3
"""
READ = f"""
import json
from collections.abc import Callable
from pathlib import Path
from checks.config import params_file
from checks.decision import policy
from checks.process.errors import Refusal
text = Path({str(REPOSITORY / "params.yaml")!r}).read_text()
def read(more):
    try:
        return params_file.parse(text + more)
    except Refusal as refusal:
        return [refusal.exit_code, str(refusal)]
def schema(section):
    whole = params_file.schema()
    part = whole["properties"][section]["anyOf"][0]
    return whole["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
"""


def _said(root: Path, code: str) -> list:
    done = plugin_package.python(root, READ + f"print(json.dumps({code}))")
    assert done.returncode == 0, done.stderr
    said: list = json.loads(done.stdout)
    return said


def _by_package(root: Path, text: str, name: str = "notify") -> None:
    plugin_package.by_hand(root, "acme", {"lockstep.sections": {name: "acme"}}, {"acme.py": text})


def _by_team(root: Path, text: str, name: str = "notify") -> None:
    (root / "kinds/sections").mkdir(parents=True)
    (root / f"kinds/sections/{name}.py").write_text(text)


@pytest.mark.parametrize("add", [_by_package, _by_team])
def test_a_section_is_validated_with_the_others_and_is_policy(tmp_path: Path, add: Callable[[Path, str], None]) -> None:
    written = "'notify: {channel: {room: Ada}}'"
    assert _said(tmp_path, f"read({written})") == [2, f"params.yaml:{_lines() + 1}: notify: unknown key; remove it"]
    add(tmp_path, SECTION)
    changes = f"[[c.path, c.needs_approval] for c in policy.changes(policy.of(read(''), None), policy.of(read({written}), None))]"
    absent, value, refused, properties, changed = _said(
        tmp_path,
        f"[read('').notify, read({written}).resolved()['notify'], read('notify: {{channel: {{rom: Ada}}, most: 0}}'),"
        f" list(schema('notify')['properties']), {changes}]",
    )
    assert (absent, value) == (None, {"channel": {"room": "Ada"}, "most": 3})
    code, line = refused
    assert (code, "notify.channel.rom: unknown key; did you mean room?" in line) == (2, True), line
    assert (properties, changed) == (["channel", "most"], [["notify", True]])


def _lines() -> int:
    return (REPOSITORY / "params.yaml").read_text().count("\n")


@pytest.mark.parametrize("name", ["train", "validate", "resolved"])
def test_no_section_takes_a_name_of_lockstep(tmp_path: Path, name: str) -> None:
    _by_package(tmp_path, SECTION.replace('"notify"', f'"{name}"'), name)
    assert _said(tmp_path, "read('')") == [
        9, f"a package or a file of kinds/ adds the section '{name}', which Lockstep has; rename it there",
    ]  # fmt: skip


def test_a_section_without_a_name_is_refused(tmp_path: Path) -> None:
    _by_team(tmp_path, SECTION.replace('section = "notify"', ""))
    code, line = _said(tmp_path, "read('notify: {}')")
    assert code == 9
    assert line.startswith("kinds/sections/notify.py adds 'notify' to lockstep.sections, which does not set section to")
