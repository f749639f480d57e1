"""Models that ship in 4 bits, rounded by LLM Compressor in its own environment: real where it is, refusals by a stand-in.

LOCKSTEP_COMPRESSOR names its Python. `python -m stages.tools.compressor 0.14.0.1` makes an environment; that takes
minutes and 1.4 GB, so the suite does not, and the tests of the real one are skipped without it.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checks.evaluation import scoring
from checks.formats.training_reports import Calibrated, Exported, ParityReport
from checks.gating import chain
from checks.process.errors import MachineRefused, MergeRefused, ParamsRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from checks.training.quantization import CALIBRATED, COMPRESSOR_PYTHON, Calibration
from stages.inference import generate
from stages.merge import merge
from stages.weights import compressed
from tests import evidence_tree
from tests.conftest import as_params, scaled_down
from tests.stages.weights.test_quantised_export import root, with_export  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

VERSION = "0.14.0.1"
HOW = Calibration(version=VERSION, rows=16, group=32)
real = pytest.mark.skipif(
    not os.environ.get(COMPRESSOR_PYTHON), reason=f"{COMPRESSOR_PYTHON} is not set: `python -m stages.tools.compressor`"
)


def in_4_bits(**change: Any) -> dict[str, Any]:
    document = with_export()
    document["merge"]["quantization"] |= {"kind": "gptq", "calibration": HOW.model_dump() | change}
    return document


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "gptq without rows": (lambda q: q.pop("calibration"), r"calibration: gptq needs it"),
    "awq without rows": (lambda q: q.update(kind="awq", calibration=None), r"calibration: awq needs it"),
    "int8 with rows": (lambda q: q.update(kind="int8"), r"calibration: int8 is not calibrated.*use kind: gptq or awq"),
    "a group that no server has": (lambda q: q["calibration"].update(group=48), r"calibration\.group"),
    "no rows": (lambda q: q["calibration"].update(rows=0), r"calibration\.rows"),
    "a kind that is none": (lambda q: q.update(kind="nf4"), r"quantization\.kind"),
}


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_parameters_that_do_not_go_together_are_refused(change: Callable[[dict[str, Any]], object], says: str) -> None:
    document = in_4_bits()
    change(document["merge"]["quantization"])
    with pytest.raises(ParamsRefused, match=says):
        as_params(document)


def _standin(folder: Path, version: str = VERSION, then: str = "") -> str:
    """A STAND-IN for LLM Compressor's Python: it says its version, and does ``then`` with the job."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\nimport json, shutil, sys\nfrom pathlib import Path\n"
        f"if sys.argv[3] == 'about':\n    sys.stdout.write({version!r})\n    sys.exit()\n"
        f"job = json.loads(Path(sys.argv[4]).read_text())\n{then}\n"
    )
    path.chmod(0o755)
    return str(path)


_COPY = """
shutil.copytree(job['model'], job['out'], dirs_exist_ok=True)
config = Path(job['out'], 'config.json')
config.write_text(json.dumps(json.loads(config.read_text()) | {'quantization_config': {}}))
"""
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    # what the stand-in does, what params.yaml says, and the refusal
    "another version": ({"version": "0.13.0"}, {}, MachineRefused, r"has LLM Compressor 0\.13\.0, and .* is 0\.14\.0\.1; run `python -m stages\.tools\.compressor 0\.14"),
    "it fails": ({"then": "sys.exit('out of luck\\n')"}, {}, MergeRefused, r"LLM Compressor ended with 1: out of luck; read \.lockstep/compressor\.log"),
    "it rounds nothing": ({"then": _COPY}, {}, MergeRefused, r"the wrong tensors: model\.layers\.0\.\S+ is unexpected"),
    "a group that does not fit": ({"then": _COPY}, {"group": 128}, MergeRefused, r"_proj\.weight: (32|64) columns, which is no multiple of the group, 128; change merge\.quantization\.calibration\.group"),
    "too few rows": ({"then": _COPY}, {"rows": 999}, MergeRefused, r"train\.jsonl: 24 rows, fewer than merge\.quantization\.calibration\.rows, 999; lower it"),
}  # fmt: skip


@pytest.mark.parametrize(("does", "said", "refusal", "word"), WRONG.values(), ids=WRONG)
def test_what_keeps_a_model_from_4_bits_is_one_line_and_ships_nothing(
    does: dict[str, Any], said: dict[str, Any], refusal: type[Exception], word: str,
    root: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811 - the fixture
) -> None:  # fmt: skip
    home = root / "standin"
    home.mkdir()
    _standin(home, **does)
    monkeypatch.chdir(root)
    monkeypatch.setenv(COMPRESSOR_PYTHON, "standin/python")  # from the folder that merge is run in
    with pytest.raises(refusal, match=word) as found:
        merge(as_params(in_4_bits(**said)), Path())  # as the stage says it
    assert len(str(found.value).splitlines()) == 1
    assert not (root / layout.MERGED).exists()
    assert not list((root / "models").glob("*lockstep-compressor*"))


def test_an_environment_that_is_not_there_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(COMPRESSOR_PYTHON, raising=False)
    with pytest.raises(MachineRefused, match=r"compressor/bin/python: No such .*; run `python -m stages\.tools\.comp"):
        compressed.hold_compressor(tmp_path, HOW)


def test_evidence_of_weights_that_were_calibrated_on_other_rows_does_not_hold(tmp_path: Path) -> None:
    params = as_params(scaled_down())
    for rows in ("train", "others"):
        home = tmp_path / rows
        evidence_tree.build(home, params)
        train = digest.of_file(home / layout.SPLITS / "train.jsonl").sha256
        said = train if rows == "train" else f"sha256:{'0' * 64}"
        exported = Exported(
            kind="gptq", calibration=Calibrated(llmcompressor=VERSION, train=said, rows=16, group=32),
            compressed_tensors="1", unquantised=said, size=1, max_logprob_diff=0, mean_logprob_diff=0, top1=1,
        )  # fmt: skip
        report = files.read_json(home / layout.PARITY_REPORT, ParityReport)
        files.write_json(home / layout.PARITY_REPORT, report.model_copy(update={"exported": exported}))
        breaks = chain.gather(home, scoring.digest_of(params.evaluate.scorers)).breaks
        wanted = f"train split: data/splits/train.jsonl says {chain.short(train)}, merge says 000000000000"
        assert (wanted in breaks) is (rows == "others")
        assert len([each for each in breaks if "train split" in each]) == (rows == "others")


def test_a_python_that_prints_no_text_is_refused_on_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '\\377\\n0.1'\n")
    python.chmod(0o755)
    monkeypatch.setenv(COMPRESSOR_PYTHON, str(python))
    with pytest.raises(MachineRefused, match=r"has LLM Compressor .*0\.1, and ") as found:
        compressed.hold_compressor(tmp_path, HOW)
    assert len(str(found.value).splitlines()) == 1


@real
@pytest.mark.parametrize("kind", CALIBRATED)
def test_a_real_compressor_rounds_to_4_bits_that_transformers_computes_with(
    kind: str,
    root: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = in_4_bits()
    document["merge"]["quantization"]["kind"] = kind
    monkeypatch.chdir(root)
    line = merge(as_params(document), Path())  # as the stage says it
    assert f"; in {kind}, " in line
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    assert report.exported is not None
    train = digest.of_file(root / layout.SPLITS / "train.jsonl").sha256
    assert report.exported.calibration == Calibrated(llmcompressor=VERSION, train=train, rows=16, group=32)
    assert report.merged == digest.of_tree(root / layout.MERGED).digest
    full, packed = (
        {name: each for path in (root / home).glob("*.safetensors") for name, each in load_file(path).items()}
        for home in (layout.UNQUANTISED, layout.MERGED)
    )
    name = "model.layers.1.mlp.down_proj.weight"
    assert packed[f"{name}_packed"].dtype == torch.int32
    assert packed[f"{name}_packed"].numel() * 8 == full[name].numel()
    assert packed[f"{name}_scale"].shape == (full[name].shape[0], full[name].shape[1] // 32)
    moved = {each for each in full if each in packed and not torch.equal(packed[each], full[each])}
    assert bool(moved) is (kind == "awq")  # it divides norms by what it multiplies the next layer's columns with
    assert all(each.endswith("layernorm.weight") for each in moved)
    before = json.loads((root / layout.UNQUANTISED / "config.json").read_text())
    after = json.loads((root / layout.MERGED / "config.json").read_text())
    assert after.pop("quantization_config")["format"] == "pack-quantized"
    assert after == before
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        ours, theirs = (
            generate.load(root / home, "fp32")[0](input_ids=ids).logits.log_softmax(-1)
            for home in (layout.MERGED, layout.UNQUANTISED)
        )
    assert 0 < (ours - theirs).abs().max() < 1.0
    again = tmp_path / "again"
    again.mkdir()
    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    compressed.export_calibrated(root, root / layout.UNQUANTISED, again, kind, HOW, rows[:16], 10**9)
    assert digest.of_tree(again).digest == report.merged
