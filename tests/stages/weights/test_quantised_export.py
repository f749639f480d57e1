"""Models that ship in 8 bits: the export, what it is held to, who answers beside it, and what is refused."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checks.config.params import Params
from checks.decision.judging import Sample
from checks.evaluation import scoring
from checks.formats.evaluation_reports import EvaluateMeasured, EvaluationReport, ReferencesReport
from checks.formats.evidence import Evidence
from checks.formats.report import UNQUANTISED
from checks.formats.suite_report import SuitesReport
from checks.formats.training_reports import Exported, ParityReport
from checks.gating import chain, compared
from checks.process.errors import EvidenceRefused, MachineRefused, MergeRefused, ParamsRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.pages import templates
from release.review import metrics, sections
from release.review import sections as review
from release.review.facts import Facts, Target
from release.runtimes import load
from release.runtimes.compatibility import unfit
from stages.evaluate import evaluate
from stages.inference import generate
from stages.merge import merge
from stages.suites import suites
from stages.weights import compressed, parity
from tests.conftest import as_params, scaled_down
from tests.stages.test_evaluate import split
from tests.stages.test_merge import make_adapter

pytestmark = pytest.mark.slow

KINDS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LOOSE = {"max_logprob_diff": 5.0, "min_top1": 0.01}
GATE = {"kind": "non_inferior", "metric": "exact-match", "against": UNQUANTISED, "margin": 0.3, "confidence": 0.9}


def with_export(kind: str = "int8", **bounds: float) -> dict[str, Any]:
    document = scaled_down()
    document["merge"]["quantization"] = {"kind": kind, "parity": LOOSE | bounds}
    document["gates"]["loses_nothing_in_8_bits"] = dict(GATE)
    return document


def without(gate: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["gates"].pop(gate)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}


def exported(source: Path, out: Path, kind: str, limit: int = 10**9) -> Path:
    out.mkdir(parents=True)
    compressed.export(source, out, kind, limit)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_linear_weights_are_rounded_to_the_nearest_number_of_their_row_and_others_are_kept(
    kind: str, tmp_path: Path, tiny_base: Path
) -> None:
    before, after = weights_in(tiny_base), weights_in(exported(tiny_base, tmp_path / "out", kind))
    chosen = {name for name in before if re.search(r"_proj\.weight$", name)}
    assert set(after) == before.keys() | {f"{name}_scale" for name in chosen}
    for name, weight in before.items():
        if name not in chosen:
            assert torch.equal(after[name], weight), name
            continue
        codes, scale = after[name], after[f"{name}_scale"]
        assert (codes.dtype, scale.shape) == (KINDS[kind], (len(weight), 1))
        top = weight.abs().amax(1, keepdim=True)
        assert torch.allclose(codes.float().abs().amax(1, keepdim=True) * scale, top, rtol=0.01)
        step = scale if kind == "int8" else torch.maximum(weight.abs() / 8, scale / 2**9)  # e4m3: 3 bits of fraction
        assert ((codes.float() * scale - weight).abs() <= 0.51 * step).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_is_the_same_bytes_again_and_the_same_weights_in_shards(
    kind: str, tmp_path: Path, tiny_base: Path
) -> None:
    one, same = (exported(tiny_base, tmp_path / name, kind) for name in ("one", "same"))
    parts = exported(tiny_base, tmp_path / "parts", kind, 20_000)
    assert digest.of_tree(one).digest == digest.of_tree(same).digest != digest.of_tree(tiny_base).digest
    assert len(list(parts.glob("*.safetensors"))) > 1
    assert {n: t.tolist() for n, t in weights_in(one).items()} == {n: t.tolist() for n, t in weights_in(parts).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_computes_with_the_rounded_weights(kind: str, tmp_path: Path, tiny_base: Path) -> None:
    out = exported(tiny_base, tmp_path / "out", kind)
    model, _ = generate.load(out, "fp32")
    after = weights_in(out)
    name = "model.layers.1.mlp.up_proj"
    unpacked = after[f"{name}.weight"].float() * after[f"{name}.weight_scale"].float()
    assert torch.allclose(model.get_submodule(name).weight.float(), unpacked, atol=1e-6)
    plain, _ = generate.load(tiny_base, "fp32")
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        ours, theirs = (each(input_ids=ids).logits.log_softmax(-1) for each in (model, plain))
    assert 0 < (ours - theirs).abs().max() < 0.1


def test_a_model_with_other_matrices_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(MergeRefused, match=r"attn\.weight: is neither .* gpt2 has 4 such weights; remove merge\.quant"):
        exported(tmp_path / "gpt2", tmp_path / "out", "int8")


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no gate": (without("loses_nothing_in_8_bits"), r"merge\.quantization: no gate rules out a loss on the test rows"),
    "another kind of numbers": (lambda d: d["merge"]["quantization"].update(kind="int4"), r"quantization\.kind: .*fp8"),
    "a gate without it": (lambda d: d["merge"].pop("quantization"), r"against: 'unquantised' is not evaluated"),
    "a suite without it": (
        lambda d: (
            d["merge"].pop("quantization"),
            d["gates"].pop("loses_nothing_in_8_bits"),
            d.update(suites={"text": {
                "kind": "loss", "text": {"uri": "x", "sha256": "0" * 64, "license": "MIT"}, "precision": "bf16",
                "models": ["candidate", UNQUANTISED],
            }}),
        ),
        r"suites\.text: asks unquantised, and merge\.quantization is null",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_parameters_that_cannot_hold_an_export_are_refused(
    change: Callable[[dict[str, Any]], object], says: str
) -> None:
    document = with_export()
    change(document)
    with pytest.raises(ParamsRefused, match=says):
        as_params(document)


def test_a_server_that_no_export_was_tried_with_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    out = exported(tiny_base, tmp_path / "out", "int8")
    config = json.loads((out / "config.json").read_text()) | {"head_dim": 64}
    assert "quantization_config {" in (unfit(load("tgi"), config) or "")
    assert unfit(load("vllm"), config) is None
    assert unfit(load("tgi"), {key: value for key, value in config.items() if key != "quantization_config"}) is None


@pytest.fixture
def root(tmp_path: Path, tiny_base: Path) -> Path:
    """A base, an adapter, and splits."""
    shutil.copytree(tiny_base, tmp_path / layout.BASE)
    make_adapter(tmp_path / layout.ADAPTER, tmp_path / layout.BASE)
    for name, rows in (("train", split(1000, 24)), ("valid", split(500, 8)), ("test", split(0, 16))):
        files.write_jsonl(tmp_path / layout.SPLITS / f"{name}.jsonl", rows)
    files.write_json(tmp_path / layout.REFERENCES, ReferencesReport(found={}, absent={"main": "none yet"}))
    return tmp_path


def test_what_ships_is_the_export_and_the_record_leads_from_the_adapter_to_it(root: Path) -> None:
    document = with_export()
    text = root / "texts.jsonl"
    text.write_text("".join(json.dumps({"id": f"t{i}", "text": f"the queue {i} of a table"}) + "\n" for i in range(8)))
    pinned = {"uri": text.name, "sha256": digest.of_file(text).sha256.removeprefix("sha256:"), "license": "MIT"}
    models = ["candidate", UNQUANTISED]
    document["suites"]["text"] = {"kind": "loss", "text": pinned, "precision": "fp32", "models": models}
    document["gates"]["remembers_all"] = {
        "kind": "remembers", "suite": "text", "metric": "bits-per-byte", "against": UNQUANTISED, "allowance": 0.2,
        "confidence": 0.9,
    }  # fmt: skip
    params = as_params(document)
    merge(as_params(scaled_down()), root)
    plain = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    assert plain.exported is None
    assert list((root / layout.UNQUANTISED).iterdir()) == []

    line = merge(params, root)
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    assert report.exported is not None
    assert (report.adapter, report.exported.unquantised) == (plain.adapter, plain.merged)
    assert report.exported.unquantised == digest.of_tree(root / layout.UNQUANTISED).digest
    assert report.merged == digest.of_tree(root / layout.MERGED).digest != plain.merged
    assert report.exported.size == sum(file.size for file in plain.files.values())
    found = parity.distance(root / layout.UNQUANTISED, root / layout.MERGED, files.read_jsonl(_valid(root), Row))
    assert report.exported.max_logprob_diff == found.max_logprob_diff > 0
    assert "; in int8, " in line

    evaluate(params, root)
    evaluation = files.read_json(root / layout.EVALUATION, EvaluationReport)
    assert evaluation.unquantised == plain.merged
    assert list(evaluation.models)[:3] == ["candidate", "base", UNQUANTISED]
    suites(params, root)
    asked = files.read_json(root / layout.SUITES_REPORT, SuitesReport).suites["text"]
    assert asked.models == {"candidate": report.merged, UNQUANTISED: plain.merged}
    assert asked.means["candidate"] != asked.means[UNQUANTISED]
    assert not _breaks(root, params)
    evidence = chain.gather(root, scoring.digest_of(params.evaluate.scorers))
    sample = Sample(evidence, params.evaluate.scorers, params.suites)
    full = compared.Compared(UNQUANTISED, UNQUANTISED, UNQUANTISED)
    for name in ("loses_nothing_in_8_bits", "remembers_all"):
        gate = params.gates[name]
        assert isinstance(gate, compared.PairedGate)
        assert compared.reference(name, gate, evidence) == full
    assert len(sample.scores(UNQUANTISED, "exact-match")) == 16
    assert len(sample.of("text", "bits-per-byte").scores(UNQUANTISED, "bits-per-byte")) == 8
    _both_are_in_one_table(root, evidence)

    said = report.exported.model_copy(update={"unquantised": f"sha256:{'0' * 64}"})
    _write_exported(root, report, said)
    assert any(
        each.startswith("unquantised: merge says 000000000000, evaluate says ") for each in _breaks(root, params)
    )
    with pytest.raises(
        EvidenceRefused, match=r"models/unquantised: is sha256:\w+…, reports/parity.json is about sha256:0"
    ):
        evaluate(params, root)
    _write_exported(root, report, None)
    assert any(each.startswith("unquantised: merge says , evaluate says ") for each in _breaks(root, params))


def _both_are_in_one_table(root: Path, evidence: Evidence) -> None:
    measured = files.read_json(root / layout.EVALUATE_MEASURED, EvaluateMeasured)
    target = Target(ref="main", commit=None, document=None, prepare=None, training=None)
    facts = Facts(
        state="held", target=target, commit=None, document=None, evidence=evidence, answering=measured
    )  # fmt: skip
    rows = review.export_table(facts, metrics.compared(facts), metrics.suites(facts))
    assert [what.split(" ")[0] for what, _, _ in rows] == ["files,", "exact-match", "text:", "test"]
    text = templates.render(
        "release.review", sections.TEMPLATE, "exported_section", {"export": review.export(facts), "quantised": rows}
    )
    assert "| | 16 bits | int8 |" in text
    assert text.count("\n| ") == 6


def _valid(root: Path) -> Path:
    return root / layout.SPLITS / "valid.jsonl"


def _breaks(root: Path, params: Params) -> list[str]:
    found = chain.gather(root, scoring.digest_of(params.evaluate.scorers)).breaks
    return [each for each in found if "unquantised" in each or "suite text" in each]


def _write_exported(root: Path, report: ParityReport, said: Exported | None) -> None:
    files.write_json(root / layout.PARITY_REPORT, report.model_copy(update={"exported": said}))


def test_an_export_too_far_from_16_bits_ships_nothing(root: Path) -> None:
    with pytest.raises(MergeRefused, match=r"int8 and the 16-bit model disagree on \d+ tokens of 8 prompts: .*1e-09"):
        merge(as_params(with_export(max_logprob_diff=1e-9)), root)
    assert not (root / layout.MERGED).exists()
    assert not (root / layout.UNQUANTISED).exists()


def test_without_compressed_tensors_nothing_is_merged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "compressed_" in name else find(name, *a))
    with pytest.raises(MachineRefused, match=r"merge\.quantization needs compressed-tensors, .*\[quantization\]"):
        merge(as_params(with_export()), root)
    assert not (root / layout.MERGED).exists()
