"""The commands that make environments of their own: what they refuse, and that nothing is lost then."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from checks.process.errors import MachineRefused, ParamsRefused
from stages import workers
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


def _installs(text: str) -> Callable[..., object]:
    """Return what stands in for pip: it installs llama.cpp's package with this text."""

    def install(python: Path, *_: str) -> None:
        (packages,) = (python.parents[1] / "lib").glob("python3.*/site-packages")
        (packages / "xllamacpp.py").write_text(text)

    return install


def test_llamacpp_that_does_not_load_is_refused_at_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a small image of Debian: the message is that of the real package there."""
    said = "libgomp.so.1: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(environments, "install", _installs(f"raise ImportError({said!r})\n"))
    (kept.parent / ".lockstep").mkdir()
    done = CliRunner().invoke(llamacpp.main, ["2026.9.11063"])
    assert done.exit_code == MachineRefused.exit_code
    assert done.stderr == f"llama.cpp does not load: ImportError: {said}; on Debian: apt-get install libgomp1\n"
    assert not (kept.parent / ".lockstep" / "llamacpp").exists()


def test_another_version_is_made_beside_the_environment(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "install", _installs(""))
    (kept.parent / ".lockstep").mkdir()
    kept.rename(kept.parent / ".lockstep" / "llamacpp")
    done = CliRunner().invoke(llamacpp.main, ["2026.9.11063", "--beside"])
    assert done.exit_code == 0
    python = Path(done.stdout.strip())
    assert python == kept.parent / ".lockstep" / "llamacpp-2026.9.11063" / "bin" / "python"
    assert python.with_name("llama-server").read_text().startswith(f"#!{python}\n")
    assert (kept.parent / ".lockstep" / "llamacpp" / "file").exists()


@pytest.mark.parametrize("main", [gguf.main, llamacpp.main])
def test_what_is_half_installed_is_not_taken_for_a_whole(
    main: click.Command, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = list[Path]()

    def killed(python: Path, *_: str) -> None:
        servers.append(python.with_name("llama-server"))
        raise KeyboardInterrupt

    monkeypatch.setattr(environments, "install", killed)
    (kept.parent / ".lockstep").mkdir()
    kept.rename(kept.parent / ".lockstep" / "gguf")
    assert CliRunner().invoke(main, ["0.1.1"]).exit_code == 1
    assert [path.name for path in (kept.parent / ".lockstep" / "gguf").iterdir()] == ["file"]
    assert servers[0].exists() or main is gguf.main  # Nothing is missing once pip ends.


def test_an_installation_imports_nothing_from_the_folder_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('a module of the team')")
    monkeypatch.setattr(workers, "__file__", str(tmp_path / "stages" / "workers.py"))
    with pytest.raises(MachineRefused, match=r"gguf latest cannot be installed"):
        workers.install("gguf", "latest", tmp_path)
    assert capfd.readouterr().err == "'latest' is no version; name one, such as 0.32.0\n"
