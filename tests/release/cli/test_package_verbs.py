"""Verbs from installed packages: in the help by name, imported when they are called, refused in one line."""

import subprocess
from pathlib import Path

import pytest

from tests import plugin_package

pytestmark = pytest.mark.slow

VERB = """
import click
from checks.process.errors import MachineRefused
from release.cli.common import refusing

@click.command()
@click.option("--to", required=True)
@click.pass_obj
@refusing
def notify(root, to):
    if to == "nobody":
        raise MachineRefused("nobody listens", "name somebody")
    print(f"{to} hears of {root.name}")
"""


def _lockstep(site: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    code = (
        f"import sys\nsys.argv = ['lockstep', *{arguments!r}]\nfrom release.cli import main\n"
        "try:\n    main()\nfinally:\n    print('imported' if 'acme' in sys.modules else 'not imported', file=sys.stderr)"
    )
    done = plugin_package.python(site, code)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _add(site: Path, verbs: dict[str, str], text: str = VERB, name: str = "acme-notify") -> None:
    plugin_package.by_hand(site, name, {"lockstep.verbs": verbs}, {"acme.py": text})


def test_a_package_adds_a_verb_that_gets_the_folder_and_its_own_refusals(tmp_path: Path) -> None:
    _add(tmp_path, {"notify": "acme:notify"})
    done = _lockstep(tmp_path, "-C", str(tmp_path), "notify", "--to", "Ada")
    assert (done.returncode, done.stdout) == (0, f"Ada hears of {tmp_path.name}\n"), done.stderr
    done = _lockstep(tmp_path, "notify", "--to", "nobody")
    assert (done.returncode, done.stderr.splitlines()[0]) == (9, "lockstep: nobody listens; name somebody")


def test_the_help_lists_it_by_its_name_and_imports_nothing(tmp_path: Path) -> None:
    _add(tmp_path, {"notify": "acme:notify", "gate": "acme:notify"}, "raise SystemExit('imported')")
    done = _lockstep(tmp_path, "--help")
    assert done.returncode == 0
    listed = done.stdout.partition("From packages:\n")[2].split()
    assert listed == ["notify", "acme-notify", "1.0"]
    assert done.stderr == "not imported\n"


def test_no_package_replaces_a_verb_of_lockstep(tmp_path: Path) -> None:
    _add(tmp_path, {"gate": "acme:notify"})
    done = _lockstep(tmp_path, "gate", "--help")
    assert "--policy-from" in done.stdout
    assert done.stderr == "not imported\n"


BROKEN = {
    "a module that fails": ("raise ValueError('two\\nlines')", "cannot be imported: ValueError: two lines"),
    "a module that exits": ("raise SystemExit(0)", "cannot be imported: SystemExit: 0"),
    "no such name": ("", "cannot be imported: AttributeError: module 'acme' has no attribute 'notify'"),
    "no command": ("notify = print", "is no click command"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_package_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    text, why = BROKEN[how]
    _add(tmp_path, {"notify": "acme:notify"}, text)
    done = _lockstep(tmp_path, "notify")
    line = f"lockstep: package acme-notify 1.0 adds the verb 'notify', which {why}; repair acme-notify, or uninstall it"
    assert (done.returncode, done.stderr.splitlines()[0]) == (9, line)


def test_a_verb_of_two_packages_is_refused(tmp_path: Path) -> None:
    for name in ("acme-notify", "bolt-notify"):
        _add(tmp_path, {"notify": "acme:notify"}, name=name)
    done = _lockstep(tmp_path, "notify")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        9, ("lockstep: package acme-notify 1.0 adds the verb 'notify', which package bolt-notify 1.0 adds too; "
        "uninstall acme-notify"),
    )  # fmt: skip
