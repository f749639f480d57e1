"""The commands that make environments of their own: what they refuse, and that nothing is lost then."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from checks.process.errors import MachineRefused, ParamsRefused
from stages.tools import compressor, environments, gguf, llamacpp, lm_eval, vllm

TOOLS = [
    (compressor.main, "compressor"), (gguf.main, "gguf"), (llamacpp.main, "llamacpp"), (lm_eval.main, "lm-eval"),
    (vllm.main, "vllm"),
]  # fmt: skip


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file in it; its parent is the current directory."""
    monkeypatch.chdir(tmp_path)
    (kept := tmp_path / "kept").mkdir()
    (kept / "file").touch()
    return kept


@pytest.mark.parametrize(("main", "name"), TOOLS)
@pytest.mark.parametrize("version", ["", "latest", "0.14 --index-url x", "../x"])
def test_no_version_is_installed_that_is_none(main: click.Command, name: str, version: str, kept: Path) -> None:
    (kept.parent / ".lockstep").mkdir()
    kept.rename(kept.parent / ".lockstep" / name)
    done = CliRunner().invoke(main, [version])
    assert done.exit_code == ParamsRefused.exit_code
    assert done.stderr.startswith(f"{version!r} is no")
    assert len(done.stderr.splitlines()) == 1
    assert (kept.parent / ".lockstep" / name / "file").exists()


@pytest.mark.parametrize(("main", "name"), TOOLS)
def test_an_environment_that_is_a_link_is_refused(main: click.Command, name: str, kept: Path) -> None:
    (kept.parent / ".lockstep").mkdir()
    (kept.parent / ".lockstep" / name).symlink_to(kept)
    done = CliRunner().invoke(main, ["0.32.0"])
    assert done.exit_code == MachineRefused.exit_code
    assert f"{name} is a link; remove the link, or set LOCKSTEP_" in done.stderr
    assert (kept / "file").exists()


def test_an_environment_that_pip_cannot_fill_is_refused() -> None:
    with pytest.raises(MachineRefused, match=r"pip cannot install vllm==0\.32\.0 for false; read what it says above"):
        environments.install(Path("false"), "vllm==0.32.0")


def test_another_version_is_made_beside_the_environment(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "install", lambda *_: None)
    (kept.parent / ".lockstep").mkdir()
    kept.rename(kept.parent / ".lockstep" / "llamacpp")
    done = CliRunner().invoke(llamacpp.main, ["2026.9.11063", "--beside"])
    assert done.exit_code == 0
    python = Path(done.stdout.strip())
    assert python == kept.parent / ".lockstep" / "llamacpp-2026.9.11063" / "bin" / "python"
    assert python.with_name("llama-server").read_text().startswith(f"#!{python}\n")
    assert (kept.parent / ".lockstep" / "llamacpp" / "file").exists()
