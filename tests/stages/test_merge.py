"""Merge: equal to PEFT's, shard by shard, whole or not at all, and held to the adapter's logits."""

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checks.formats.training_reports import ParityReport
from checks.process.errors import EvidenceRefused, MachineRefused, MergeRefused
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from stages.merge import copy_companions, merge, merge_weights
from stages.weights import shards
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY, as_params

pytestmark = pytest.mark.slow

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LIMIT = 25_000  # bytes: the tiny model becomes several shards


def make_base(folder: Path, tiny: Path, dtype: torch.dtype, tied: bool) -> Path:
    """A random Llama beside the tiny base's tokenizer."""
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(tiny, tie_word_embeddings=tied)
    torch.manual_seed(11)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size="50KB")
    for path in (*tiny.glob("tokenizer*"), *tiny.glob("chat_template*")):
        shutil.copyfile(path, folder / path.name)
    return folder


def make_adapter(folder: Path, base: Path, **settings: Any) -> Path:
    """A LoRA whose A and B are both random, as PEFT writes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(12)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "init_lora_weights": False} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **chosen))
    for name, weight in model.named_parameters():
        if "lora_magnitude" in name:  # else it undoes what was added
            weight.data *= 1 + 0.2 * torch.rand_like(weight)
    model.save_pretrained(folder, save_embedding_layers=False)
    # as training leaves it: the settings of a plain start
    config = json.loads((folder / "adapter_config.json").read_text()) | {"init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def peft_merged(base: Path, adapter: Path) -> Any:
    """The same merge by PEFT, in memory."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a directory, by safetensors' own reader."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


@pytest.fixture
def base(tmp_path: Path, tiny_base: Path) -> Path:
    return make_base(tmp_path / layout.BASE, tiny_base, torch.float32, tied=False)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return make_adapter(tmp_path / layout.ADAPTER, base)


@pytest.fixture
def root(tmp_path: Path, base: Path, adapter: Path) -> Path:
    """A repository's root with base, adapter and a valid split of 12 rows."""
    rows = [
        Row(
            id=f"{i:016x}",
            messages=(Message(role="user", content="show the " * (1 + i % 4) + name),),
            reference=name,
            group=str(i),
            slice="a",
            source="x:1",
        )
        for i, name in enumerate(("queue", "table", "disk") * 4)
    ]
    files.write_jsonl(tmp_path / layout.SPLITS / "valid.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({}, True),
        ({"use_rslora": True}, False),
        ({"use_dora": True}, False),
        ({"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}}, True),
        ({"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 6}, "alpha_pattern": {"o_proj": 3, r"1\.self_attn\.v_proj": 5}}, False),
        ({"use_rslora": True, "rank_pattern": {"down_proj": 2}, "layers_to_transform": [1], "target_modules": ["down_proj"]}, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_weights_equal_those_of_peft(
    tmp_path: Path, tiny_base: Path, dtype: torch.dtype, settings: dict[str, Any], tied: bool
) -> None:
    """Within 1e-6 of the tensor's largest value in float32, and within one unit in the last place in bfloat16."""
    base = make_base(tmp_path / "base", tiny_base, dtype, tied)
    adapter = make_adapter(tmp_path / "adapter", base, **settings)
    out = tmp_path / "out"
    out.mkdir()
    assert len(merge_weights(base, adapter, out, LIMIT)) > 2
    copy_companions(base, out)

    before, ours = weights_in(base), weights_in(out)
    theirs = {name: value for name, value in peft_merged(base, adapter).state_dict().items() if name in before}
    assert ours.keys() == before.keys() == theirs.keys()
    assert ("lm_head.weight" in ours) is not tied
    changed = 0
    for name, value in ours.items():
        expected = theirs[name]
        assert (value.dtype, value.shape) == (dtype, expected.shape)
        changed += not torch.equal(value, before[name])
        unit = torch.zeros(1)
        if dtype == torch.bfloat16:
            exponent = torch.frexp(torch.maximum(value.abs(), expected.abs()).float())[1]
            unit = 2.0 ** (exponent - 8)  # bfloat16 keeps 8 bits of the significand
        allowed = torch.maximum(unit, 1e-6 * expected.abs().max().float())
        assert ((value.float() - expected.float()).abs() <= allowed).all(), name
    assert changed == sum(".lora_A." in name for name in load_file(adapter / "adapter_model.safetensors"))


def test_transformers_loads_the_merged_directory_and_it_says_what_peft_says(root: Path, document: dict) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    document["merge"]["parity"] |= {"max_logprob_diff": 1e-4, "min_top1": 1.0, "prompts": 5}
    merge(as_params(document), root)
    merged = root / layout.MERGED
    model, loading = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not any(loading.values())
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template
    ids = tokenizer("show the queue", return_tensors="pt").input_ids
    expected = peft_merged(root / layout.BASE, root / layout.ADAPTER)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)

    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    tree = digest.of_tree(merged)
    assert report.merged == tree.digest
    assert {name: (f.sha256, f.size) for name, f in report.files.items()} == {
        n: tuple(f) for n, f in tree.files.items()
    }
    assert (report.base, report.adapter) == tuple(
        digest.of_tree(root / p).digest for p in (layout.BASE, layout.ADAPTER)
    )
    assert report.prompts == 5
    assert report.positions > report.prompts  # each answer has a word and its end of turn
    assert {path.stat().st_mode & 0o777 for path in merged.iterdir()} == {0o644}


def test_the_merged_directory_is_spelled_for_old_servers_before_it_is_measured(root: Path, document: dict) -> None:
    """Parity and digest are those of the exported files; a base whose two spellings disagree refuses."""
    merge(as_params(document), root)
    config = json.loads((root / layout.MERGED / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"]
    tokenizer = json.loads((root / layout.MERGED / "tokenizer_config.json").read_text())
    assert tokenizer["chat_template"] == (root / layout.MERGED / "chat_template.jinja").read_text()
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    assert report.merged == digest.of_tree(root / layout.MERGED).digest
    _base_config(rope_theta=5.0)(root / layout.BASE, root / layout.ADAPTER)
    with pytest.raises(MergeRefused, match=r"rope_parameters\.rope_theta is 10000\.0, but rope_theta is 5\.0"):
        merge(as_params(document), root)
    assert not (root / layout.MERGED).exists()


def test_nothing_in_the_merged_directory_chooses_tokens_that_evaluate_does_not_choose(
    root: Path, document: dict
) -> None:
    path = root / layout.BASE / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2], "repetition_penalty": 1.1, "temperature": 0.7}))
    said = merge(as_params(document), root)
    assert json.loads((root / layout.MERGED / path.name).read_text()) == {"eos_token_id": [2]}
    assert "generation_config.json without repetition_penalty, temperature" in said
    assert (
        files.read_json(root / layout.PARITY_REPORT, ParityReport).merged == digest.of_tree(root / layout.MERGED).digest
    )


def test_shards_keep_the_limit_are_aligned_and_an_index_names_every_tensor(base: Path, adapter: Path) -> None:
    out = base.parent / "out"
    out.mkdir()
    names = merge_weights(base, adapter, out, LIMIT)
    assert names == [f"model-{i + 1:05}-of-{len(names):05}.safetensors" for i in range(len(names))]
    assert {path.name for path in out.iterdir()} == {*names, shards.INDEX}
    index = json.loads((out / shards.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(w.nbytes for w in weights_in(out).values())
    found = {name: file for file in names for name in load_file(out / file)}
    assert index["weight_map"] == found
    for name in names:
        data = (out / name).read_bytes()
        assert int.from_bytes(data[:8], "little") % 8 == 0
        assert len(data) <= LIMIT or len(load_file(out / name)) == 1


def test_one_shard_is_a_single_file_without_an_index(base: Path, adapter: Path) -> None:
    out = base.parent / "out"
    out.mkdir()
    assert merge_weights(base, adapter, out, 10**9) == ["model.safetensors"]
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]


def test_layers_that_were_not_trained_fill_shards_that_stay_the_same(tmp_path: Path, base: Path) -> None:
    found = []
    for seed in (1, 2):
        adapter = make_adapter(tmp_path / f"adapter{seed}", base, layers_to_transform=[1], lora_alpha=seed)
        out = tmp_path / f"out{seed}"
        out.mkdir()
        merge_weights(base, adapter, out, LIMIT)
        found.append({path.name: digest.of_file(path).sha256 for path in out.glob("model-*")})
    same = [name for name in found[0] if found[0][name] == found[1][name]]
    assert 0 < len(same) < len(found[0])


def test_wider_tensors_come_first_so_that_every_tensor_is_aligned(tmp_path: Path) -> None:
    weights = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(5), "c": torch.tensor(2, dtype=torch.int64)}
    described = [
        shards.Tensor("a", "BF16", (3,), 6),
        shards.Tensor("b", "F32", (5,), 20),
        shards.Tensor("c", "I64", (), 8),
    ]
    (shard,) = shards.plan(described, 10_000)
    assert [tensor.name for tensor in shard.tensors] == ["c", "b", "a"]
    shards.write(tmp_path / shard.file, shard.tensors, lambda t: [weights[t.name]])
    read = load_file(tmp_path / shard.file)
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    with pytest.raises(ValueError, match="b: 8 bytes given, 20 announced"):
        shards.write(
            tmp_path / "x", shard.tensors, lambda t: [weights[t.name][:2] if t.name == "b" else weights[t.name]]
        )


def test_layer_two_is_planned_before_layer_ten() -> None:
    described = [shards.Tensor(f"layers.{i}.w", "F32", (1,), 4) for i in (10, 2, 1)]
    (shard,) = shards.plan(described, 10_000)
    assert [tensor.name for tensor in shard.tensors] == ["layers.1.w", "layers.2.w", "layers.10.w"]


def test_a_disagreement_refuses_with_the_figures_and_leaves_the_report_alone(root: Path, document: dict) -> None:
    merge(as_params(document), root)
    document["merge"]["parity"] |= {"max_logprob_diff": 1e-12}
    with pytest.raises(MergeRefused, match=r"tokens of 12 prompts: max .* nats \(bound 1e-12\), top-1 agreement 1 "):
        merge(as_params(document), root)
    assert sorted(path.name for path in (root / "models").iterdir()) == ["adapter", "base"]
    assert files.read_json(root / layout.PARITY_REPORT, ParityReport).max_logprob_diff > 1e-12


def test_a_killed_merge_leaves_no_merged_directory_and_the_next_clears_up(root: Path, document: dict) -> None:
    (root / "params.json").write_text(json.dumps(document))
    script = f"""
import json, os, signal, sys
from pathlib import Path
from stages import merge
from stages.weights import shards
from tests.conftest import as_params
written = []
whole = shards.write
def write(path, tensors, pieces):
    whole(path, tensors, pieces)
    written.append(path)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
shards.write = write
plan = shards.plan
shards.plan = lambda tensors, _: plan(tensors, {LIMIT})
merge.merge(as_params(json.loads(Path("params.json").read_text())), Path())
"""
    done = subprocess.run(
        repository.script(script),
        cwd=root,
        env=repository.environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    names = {path.name for path in (root / "models").iterdir()}
    assert "merged" not in names
    left = names - {"adapter", "base"}
    assert sorted(name.split(".")[1] for name in left) == ["merged", "unquantised"]
    merge(as_params(document), root)
    assert {path.name for path in (root / "models").iterdir()} == {"adapter", "base", "merged", "unquantised"}


def test_a_shard_of_an_earlier_merge_does_not_survive(root: Path, document: dict) -> None:
    merge(as_params(document), root)
    first = digest.of_tree(root / layout.MERGED)
    (root / layout.MERGED / "model-00009-of-00009.safetensors").write_bytes(b"of an earlier merge")
    merge(as_params(document), root)
    assert digest.of_tree(root / layout.MERGED) == first


def _config(**changes: Any) -> Callable[[Path, Path], None]:
    def spoil(_: Path, adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], None]:
    def spoil(_: Path, adapter: Path) -> None:
        weights = load_file(adapter / "adapter_model.safetensors")
        change(weights)
        save_file(weights, adapter / "adapter_model.safetensors")

    return spoil


def _base_config(**changes: Any) -> Callable[[Path, Path], None]:
    def spoil(base: Path, _: Path) -> None:
        path = base / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


_FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
_MAGNITUDE = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"


def _dora(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], None]:
    def spoil(base: Path, adapter: Path) -> None:
        make_adapter(adapter, base, use_dora=True)
        _tensors(change)(base, adapter)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_config(use_dora=True), r"28 tensors fit no weight of the base: "),
        (
            _tensors(lambda w: w.update({_MAGNITUDE: torch.ones(32)})),
            r"3 tensors fit no weight of the base: .*lora_magnitude_vector",
        ),
        (_dora(lambda w: w.pop(_MAGNITUDE)), "2 tensors fit no weight of the base: .*q_proj.lora_A"),
        (
            _dora(lambda w: w.update({_MAGNITUDE: torch.ones(8)})),
            r"q_proj\.weight: base \[32, 32\] against adapter's lengths \[8\]",
        ),
        (_config(bias="all"), "bias is 'all'"),
        (_config(lora_bias=True), "lora_bias is true"),
        (_config(trainable_token_indices=[5]), "trainable_token_indices is"),
        (_config(fan_in_fan_out=True), "fan_in_fan_out is true"),
        (_config(target_parameters=["experts"]), "target_parameters is"),
        (_config(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
        (_config(something_new=1), "something_new is 1, which merge cannot apply"),
        (_config(peft_type="IA3"), "peft_type is 'IA3'"),
        (_config(r=0), "r is 0"),
        (_config(r=3), r"down_proj\.weight: base \[32, 64\] and rank 3 against adapter A \[4, 64\], B \[32, 4\]"),
        (_tensors(lambda w: w.update({_FIRST: w[_FIRST][:, :8].clone()})), r"q_proj\.weight: base \[32, 32\] and rank 4"),
        (_tensors(lambda w: w.pop(_FIRST)), "1 tensors fit no weight of the base: .*q_proj.lora_B"),
        (
            _tensors(lambda w: [w.update({k.replace("layers", "blocks"): w.pop(k)}) for k in list(w)]),
            "28 tensors fit no weight of the base: .*blocks.* and 23 more; train the adapter on this base",
        ),
        (
            _tensors(lambda w: w.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 400)})),
            "1 tensors fit no weight of the base: .*lora_embedding_A",
        ),
        (_tensors(lambda w: w.clear()), "holds no tensors"),
        (_tensors(lambda w: w[_FIRST].fill_(math.nan)), "q_proj: merged weights are not finite"),
        (_base_config(quantization_config={"quant_method": "awq"}), r"the base is quantised \(awq\)"),
        (lambda _, adapter: (adapter / "adapter_config.json").write_text("{"), "not an adapter's config"),
        (lambda _, adapter: (adapter / "adapter_config.json").unlink(), "not an adapter's config"),
    ],
)  # fmt: skip
def test_an_adapter_that_is_not_lora_of_this_base_refuses_by_name(
    root: Path, document: dict, spoil: Callable[[Path, Path], object], says: str
) -> None:
    spoil(root / layout.BASE, root / layout.ADAPTER)
    with pytest.raises(MergeRefused, match=says):
        merge(as_params(document), root)
    assert not (root / layout.MERGED).exists()
    assert not (root / layout.PARITY_REPORT).exists()


def test_lora_on_a_tied_head_refuses(tmp_path: Path, tiny_base: Path) -> None:
    base = make_base(tmp_path / "base", tiny_base, torch.float32, tied=False)
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["lm_head"])
    _base_config(tie_word_embeddings=True)(base, adapter)
    with pytest.raises(MergeRefused, match="LoRA on a head that is tied"):
        merge_weights(base, adapter, tmp_path, LIMIT)


def test_weights_that_overflow_fp16_refuse(tmp_path: Path, tiny_base: Path) -> None:
    base = make_base(tmp_path / "base", tiny_base, torch.float16, tied=False)
    adapter = make_adapter(tmp_path / "adapter", base, lora_alpha=10**9)
    with pytest.raises(MergeRefused, match=r"not finite in torch\.float16"):
        merge_weights(base, adapter, tmp_path, LIMIT)


def _truncated(base: Path) -> None:
    path = min(base.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])


def _renamed(base: Path) -> None:
    index = json.loads((base / shards.INDEX).read_text())
    index["weight_map"]["another.weight"] = index["weight_map"]["lm_head.weight"]
    (base / shards.INDEX).write_text(json.dumps(index))


def _unlisted(base: Path) -> None:
    """Drop from the index a tensor that shares its file with others."""
    index = json.loads((base / shards.INDEX).read_text())
    files_of = list(index["weight_map"].values())
    name = next(name for name, file in index["weight_map"].items() if files_of.count(file) > 1)
    del index["weight_map"][name]
    (base / shards.INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_truncated, "not a whole safetensors file"),
        (_renamed, "another.weight is not in model-"),
        (_unlisted, r"\.weight is not in model\.safetensors\.index\.json"),
        (lambda base: (base / shards.INDEX).write_text("[]"), "not an index of shards"),
        (lambda base: (base / "config.json").write_text("[]"), "not a model's config"),
        (lambda base: (base / shards.INDEX).unlink(), r"model\.safetensors: not a whole safetensors file"),
    ],
)
def test_a_damaged_base_refuses(root: Path, document: dict, spoil: Callable[[Path], object], says: str) -> None:
    spoil(root / layout.BASE)
    with pytest.raises(EvidenceRefused, match=says):
        merge(as_params(document), root)


def test_a_base_without_one_of_its_weights_refuses(root: Path, document: dict) -> None:
    index = json.loads((root / layout.BASE / shards.INDEX).read_text())
    (root / layout.BASE / index["weight_map"].pop("lm_head.weight")).unlink()
    (root / layout.BASE / shards.INDEX).write_text(json.dumps(index))
    with pytest.raises(MergeRefused, match=r"1 weights are missing: lm_head\.weight"):
        merge(as_params(document), root)


def test_a_valid_split_without_rows_or_a_template_that_hides_the_answer_refuses(root: Path, document: dict) -> None:
    (root / layout.BASE / "chat_template.jinja").write_text("{% if add_generation_prompt %}ask{% endif %}")
    with pytest.raises(MergeRefused, match="does not continue the prompt with the answer"):
        merge(as_params(document), root)
    (root / layout.SPLITS / "valid.jsonl").write_text("")
    with pytest.raises(MergeRefused, match="no rows to compare on"):
        merge(as_params(document), root)


def test_logits_that_are_not_finite_refuse(root: Path, document: dict) -> None:
    for path in (root / layout.BASE).glob("*.safetensors"):
        weights = load_file(path)
        if "model.norm.weight" in weights:
            save_file(weights | {"model.norm.weight": torch.full((32,), math.nan)}, path, metadata={"format": "pt"})
    with pytest.raises(MergeRefused, match="a log-probability is not finite"):
        merge(as_params(document), root)


def test_too_small_a_disk_refuses_before_writing(root: Path, document: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1_000_000))
    with pytest.raises(MachineRefused, match="1 MB free, 50 MB needed"):
        merge(as_params(document), root)


def test_a_full_disk_refuses(base: Path, adapter: Path) -> None:
    out = base.parent / "out"
    out.mkdir()
    (out / "model.safetensors").symlink_to("/dev/full")
    with pytest.raises(MachineRefused, match=r"is full, .*: writing .*model.safetensors; free space there"):
        merge_weights(base, adapter, out, 10**9)
