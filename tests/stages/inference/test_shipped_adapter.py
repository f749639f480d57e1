"""The adapter that ships beside its base: bytes, what is evaluated, and what engines are told. PEFT is the reference."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from checks.formats.engines import Vllm
from checks.formats.training_reports import ParityReport
from checks.process.errors import MergeRefused
from checks.storage import digest, files, layout
from stages.inference import generate, shipped_adapter, vllm
from stages.merge import merge
from tests.conftest import as_params, scaled_down
from tests.stages.test_merge import adapter as adapter
from tests.stages.test_merge import base as base
from tests.stages.test_merge import make_adapter, weights_in
from tests.stages.test_merge import root as root

pytestmark = pytest.mark.slow

BOUNDS = {"max_logprob_diff": 1.0, "min_top1": 0.5, "prompts": 12}


def document(**lora: Any) -> dict[str, Any]:
    """params.yaml that ships an adapter."""
    value = scaled_down()
    value["merge"] |= {"form": "adapter", "parity": BOUNDS}
    value["serve"]["adapter"] = {"max_rank": 64}
    value["train"]["lora"] |= lora
    return value


def report_of(root: Path) -> ParityReport:
    return files.read_json(root / layout.PARITY_REPORT, ParityReport)


def test_the_base_ships_as_it_is_with_the_adapter_beside_it(root: Path, base: Path, adapter: Path) -> None:
    line = merge(as_params(document()), root)
    ships = root / layout.MERGED
    ours, theirs = weights_in(ships), weights_in(base)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (ships / "adapter" / name).read_bytes() == (adapter / name).read_bytes()
    report = report_of(root)
    assert report.merged == digest.of_tree(ships).digest
    assert report.shipped_adapter is not None
    assert report.shipped_adapter.rank == 4
    assert f"an adapter of rank 4 beside the base, {report.shipped_adapter.max_logprob_diff:.3f} nats" in line


def test_two_adapters_on_one_base_share_its_weights_and_are_two_models(root: Path, base: Path, adapter: Path) -> None:
    merge(as_params(document()), root)
    first = report_of(root)
    make_adapter(adapter, base, r=8)
    merge(as_params(document()), root)
    second = report_of(root)
    assert first.shipped_adapter is not None
    assert second.shipped_adapter is not None
    assert first.shipped_adapter.weights == second.shipped_adapter.weights
    assert first.merged != second.merged
    assert (first.shipped_adapter.rank, second.shipped_adapter.rank) == (4, 8)


def test_an_adapter_of_another_base_is_refused_and_ships_nowhere(root: Path, adapter: Path, tiny_base: Path) -> None:
    config = json.loads((root / layout.BASE / "config.json").read_text())
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**config | {"intermediate_size": 2 * config["intermediate_size"]})).save_pretrained(
        root / "wide"
    )
    make_adapter(adapter, root / "wide")
    with pytest.raises(MergeRefused, match="and rank 4 against adapter"):
        merge(as_params(document()), root)
    assert not (root / layout.MERGED).exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_evaluated_is_base_and_adapter_as_peft_computes_them(
    root: Path, base: Path, adapter: Path, precision: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merge(as_params(document()), root)
    model, _ = generate.load(root / layout.MERGED, precision)
    dtype = generate._TYPES[precision]
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    reference = PeftModel.from_pretrained(plain, str(adapter), autocast_adapter_dtype=False).eval()
    ids = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        ours, theirs = model(input_ids=ids).logits, reference(input_ids=ids).logits
        with reference.disable_adapter():
            of_base = reference(input_ids=ids).logits
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, of_base)
    assert {weight.dtype for name, weight in model.named_parameters() if "lora_" in name} == {dtype}
    # PyTorch multiplies frozen weights with each row by itself, which took 11 GB instead of 1.3 for the default model.
    assert all(weight.requires_grad for weight in model.parameters())


def test_answers_are_those_of_peft_token_by_token(root: Path, base: Path, adapter: Path) -> None:
    """The prompts differ in length and are computed in batches by several threads."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merge(as_params(document()), root)
    model, tokenizer = generate.load(root / layout.MERGED, "fp32")
    prompts = [tuple(range(5, 8 + number)) for number in range(9)]
    ends = generate.end_tokens(model, tokenizer)
    answers = generate.generate(model, prompts, ends, 8, 64)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference = PeftModel.from_pretrained(plain, str(adapter)).eval()
    for prompt, answer in zip(prompts, answers, strict=True):
        whole = reference.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=sorted(ends)
        )[0, len(prompt) :].tolist()
        assert list(answer.tokens) == [token for token in whole if token not in ends]


def test_the_distance_from_one_merged_model_is_reported_and_no_bound_holds_it(
    root: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.weights import parity

    far = parity.Agreement(positions=9, max_logprob_diff=50.0, mean_logprob_diff=9.0, top1=0.1)
    monkeypatch.setattr(parity, "from_merged", lambda *_: far)
    merge(as_params(document()), root)
    report = report_of(root)
    assert report.max_logprob_diff < 1.0
    assert report.shipped_adapter is not None
    assert report.shipped_adapter.max_logprob_diff == 50.0


def test_merged_in_memory_is_the_model_that_merge_ships(root: Path, adapter: Path) -> None:
    from stages.weights import parity

    value = document()
    merge(as_params(value), root)
    apart = parity._loaded(root / layout.MERGED)
    in_memory = shipped_adapter.merge_in_memory(apart).state_dict()
    value["merge"]["form"] = "merged"
    del value["serve"]["adapter"]
    merge(as_params(value), root)
    merged = weights_in(root / layout.MERGED)
    assert not (root / layout.MERGED / "adapter").exists()
    for name, weight in merged.items():
        module, _, last = name.rpartition(".")
        ours = in_memory.get(name, in_memory.get(f"{module}.base_layer.{last}"))
        assert torch.allclose(ours, weight, atol=1e-6), name


def test_vllm_is_given_the_adapter_and_the_room_that_it_needs(root: Path, base: Path, adapter: Path) -> None:
    params = as_params(document())
    merge(params, root)
    config = root / layout.MERGED / "adapter" / "adapter_config.json"
    engine = Vllm.model_validate(
        {
            "kind": "vllm",
            "version": "0.32.0",
            "kv_cache_gb": 1.0,
            "gpus": 1,
            "max_rows": 8,
            "compiled": False,
            "batch_invariant": False,
        }
    )
    for rank, room in ((4, 8), (8, 8), (9, 16), (65, 128)):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"r": rank}))
        asked = vllm.request_of(params.evaluate, engine, root / layout.MERGED, [(1, 2)], [2])
        assert asked["adapter"] == str((root / layout.MERGED / "adapter").resolve())
        assert (asked["model"]["enable_lora"], asked["model"]["max_lora_rank"]) == (True, room), rank
    without = vllm.request_of(params.evaluate, engine, root / layout.BASE, [(1, 2)], [2])
    assert without["adapter"] is None
    assert "enable_lora" not in without["model"]
