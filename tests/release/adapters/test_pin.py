"""The pin of Lockstep in a team's repository, as people, Dependabot and Renovate write it."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from checks.process.errors import MachineRefused, ParamsRefused
from release.adapters import pin
from release.adapters.pin import Pin

SHA = "ab" * 32
HERE = Pin("dvc,pipeline,s3", "0.2.0", (SHA,))
KINDS = "acme-kinds==1.0 --hash=sha256:" + "0" * 64


@pytest.mark.parametrize(
    "text",
    [
        f"lockstep-llm[dvc,pipeline,s3]==0.2.0 --hash=sha256:{SHA}\n",
        f"# ours\nlockstep-llm[dvc,pipeline,s3]==0.2.0 \\\n    --hash=sha256:{SHA}\n{KINDS}\n",
        pin.written(HERE),
    ],
    ids=["one line", "as Dependabot writes it, beside another package", "as init writes it"],
)
def test_a_pin_is_read(text: str) -> None:
    assert pin.read(text) == HERE


def test_hashes_of_wheel_and_sdist_are_read_as_dependabot_writes_both() -> None:
    text = f"lockstep-llm[dvc]==0.3.0 \\\n    --hash=sha256:{SHA} \\\n    --hash=sha256:{'cd' * 32}\n"
    assert pin.read(text) == Pin("dvc", "0.3.0", (SHA, "cd" * 32))


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", KINDS, pin.written(HERE) * 2, f"{HERE.line()}\nLockstep_LLM==1 --hash=sha256:{SHA}"]
)
def test_any_number_of_pins_but_one_is_refused(text: str) -> None:
    with pytest.raises(ParamsRefused, match="pins of lockstep-llm; write one line"):
        pin.read(text)


@pytest.mark.parametrize(
    "line",
    [
        "lockstep-llm[dvc]==0.2.0",
        f"lockstep-llm[dvc]>=0.2.0 --hash=sha256:{SHA}",
        "--index-url https://elsewhere.example/simple",
        "--find-links \\\n" + HERE.line(),
        "-r more.txt",
        "acme-kinds @ https://elsewhere.example/acme.whl",
    ],
    ids=["without a hash", "a range", "an index", "a pin that an option swallows", "another file", "an address"],
)
def test_a_line_in_which_pip_might_read_more_is_refused(line: str) -> None:
    with pytest.raises(ParamsRefused, match="is not a package with a version and its hash; write NAME"):
        pin.read(f"{line}\n{HERE.line()}\n")


def test_a_new_pin_leaves_the_other_lines() -> None:
    new = Pin("dvc", "0.3.0", ("cd" * 32,))
    text = pin.replaced(f"# ours\n{HERE.line()}\n{KINDS}\n", new)
    assert text == f"# ours\n{new.line()}\n{KINDS}\n"


def wheel(folder: Path, name: str, version: str, *requirements: str) -> str:
    """Write a wheel, and return its SHA-256."""
    start = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{start}-py3-none-any.whl"
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{start}.dist-info/METADATA", metadata)
        archive.writestr(f"{start}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{start}.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


EXTRAS = (
    'dvc<4,>=3.60; extra == "dvc"', 'lockstep-lake[sql]<0.3,>=0.2; extra == "sql"',
    'lockstep-azure-cli<0.3,>=0.2; extra == "azure-cli"',
)  # fmt: skip


@pytest.mark.parametrize(
    ("extras", "other", "pinned"),
    [
        ("dvc", "", []),
        ("dvc, sql", "", ["lockstep-lake"]),
        ("dvc", f"Lockstep_Lake==0.1.0 \\\n  --hash=sha256:{SHA}\n", ["lockstep-lake"]),
        ("sql,azure-cli", KINDS + "\n", ["lockstep-azure-cli", "lockstep-lake"]),
    ],
    ids=["no extra has one", "by an extra", "by a line of an earlier version", "two, beside the team's kinds"],
)
def test_the_packages_of_extras_are_pinned_beside_lockstep_at_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extras: str, other: str, pinned: list[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    sha256 = {"lockstep-llm": wheel(tmp_path, "lockstep-llm", "0.2.0", *EXTRAS)}
    for name in ("lockstep-lake", "lockstep-azure-cli"):
        sha256[name] = wheel(tmp_path, name, "0.2.0", "lockstep-llm<0.3,>=0.2")
    old = f"# ours\nlockstep-llm[{extras}]==0.1.0 --hash=sha256:{SHA}\n{other}"
    new = pin.of("0.2.0", extras, pin.hashes(old))
    lines = [f"{name}==0.2.0 --hash=sha256:{sha256[name]}" for name in pinned]
    own = f"lockstep-llm[{extras}]==0.2.0 --hash=sha256:{sha256['lockstep-llm']}"
    kept = [KINDS] if KINDS in other else []
    assert pin.replaced(old, new).splitlines() == ["# ours", own, *lines, *kept]
    assert pin.written(new).splitlines()[1:] == [own, *lines]
    assert pin.hashes(pin.replaced(old, new)).keys() >= {"lockstep-llm", *pinned}


def test_a_version_whose_package_the_index_lacks_is_not_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel(tmp_path, "lockstep-llm", "0.2.0", *EXTRAS)
    with pytest.raises(MachineRefused, match=r"lockstep-lake==0\.2\.0: pip brings no wheel: ERROR: .*; name an index"):
        pin.of("0.2.0", "sql")


def test_a_version_is_pinned_by_the_wheel_that_pip_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for version in ("0.2.0", "0.10.0"):
        wheel(tmp_path, "lockstep-llm", version)
    newest = tmp_path / "lockstep_llm-0.10.0-py3-none-any.whl"
    assert pin.of(None, "dvc") == Pin("dvc", "0.10.0", (hashlib.sha256(newest.read_bytes()).hexdigest(),))
    assert pin.of("0.2.0").version == "0.2.0"
    with pytest.raises(MachineRefused, match=r"lockstep-llm==0\.9: pip brings no wheel: ERROR: .*; name an index"):
        pin.of("0.9")
    for version in ("--index-url=x", "0.2.0 evil", ""):
        with pytest.raises(ParamsRefused, match="is not a version"):
            pin.of(version)
