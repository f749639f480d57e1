"""Bases of several families without a chat template, by parameters alone: from fetch to the merged model's answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from checks.formats.serving import ProbeReport
from checks.formats.training_reports import ParityReport, TrainReport
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages.fetch import fetch
from stages.inference import answers
from stages.merge import merge
from stages.probe import probe
from stages.quality import chat_tokens
from stages.train import train
from tests import training_tree
from tests.conftest import as_params

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tracked")]

TEXT = ["name the key show the queue table disk vault system user model assistant System User Assistant"] * 9
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
# Family of model, of tokenizer, tokens for turns, and what its configuration has beside SIZES; then the template.
FAMILIES: dict[str, tuple[str, str, list[str], dict[str, Any], str]] = {
    "llama 2": ("Llama", "LlamaTokenizer", [], {}, "plain"),
    "llama 3": ("Llama", "PreTrainedTokenizerFast", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], {"rope_parameters": LLAMA3}, "llama3"),
    "qwen 2": ("Qwen2", "Qwen2Tokenizer", ["<|im_start|>", "<|im_end|>"], {"tie_word_embeddings": True}, "chatml"),
    "qwen 3": ("Qwen3", "Qwen2Tokenizer", ["<|im_start|>", "<|im_end|>"], {"head_dim": 16}, "chatml"),
    "gemma 3": ("Gemma3", "GemmaTokenizer", ["<start_of_turn>", "<end_of_turn>"], {"num_hidden_layers": 6, "sliding_window": 16, "head_dim": 8}, "gemma"),
    "mistral": ("Mistral", "LlamaTokenizer", [], {"sliding_window": 24}, "plain"),
}  # fmt: skip
ENDS = {"plain": "</s>", "llama3": "<|eot_id|>", "chatml": "<|im_end|>", "gemma": "<end_of_turn>"}


def make_base(folder: Path, name: str) -> None:
    """A pretrained model of the family as far as files go: random weights, and a tokenizer of its own class."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    family, kind, turns, settings, _ = FAMILIES[name]
    words = kind in ("LlamaTokenizer", "GemmaTokenizer")
    learnt = Tokenizer(models.BPE(byte_fallback=words))
    learnt.pre_tokenizer = pre_tokenizers.Metaspace() if words else pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = [] if words else pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>", *turns, *(f"<0x{byte:02X}>" for byte in range(256) if words)]
    learnt.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=letters, show_progress=False),
    )
    ends = {"bos_token": None if family.startswith("Qwen") else "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    if kind == "PreTrainedTokenizerFast":
        learnt.decoder = decoders.ByteLevel()
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=learnt, **ends)
    else:
        model = json.loads(learnt.to_str())["model"]
        tokenizer = getattr(transformers, kind)(
            vocab=model["vocab"],
            merges=[tuple(pair) for pair in model["merges"]],
            additional_special_tokens=turns,
            **ends,
        )
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = "Text" if family == "Gemma3" else ""
    config = getattr(transformers, f"{family}{text}Config")(vocab_size=len(tokenizer), **ids, **SIZES | settings)
    torch.manual_seed(7)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)


def lay_out(root: Path, document: dict[str, Any], name: str, steps: int) -> None:
    """The base, fetched with its template, and sealed splits of 24, 6 and 6 rows."""
    make_base(root / "model", name)
    (root / "rows.jsonl").write_text("{}\n")
    document["base"] |= {
        "uri": "model",
        "sha256": digest.of_tree(root / "model").digest.removeprefix("sha256:"),
        "chat_template": FAMILIES[name][-1],
    }
    document["data"] |= {"uri": "rows.jsonl", "sha256": digest.of_bytes(b"{}\n").removeprefix("sha256:")}
    document["train"] |= {"max_steps": steps, "learning_rate": 0.01, "batch_size": 8}
    document["train"]["lora"] |= {"targets": "all-linear", "r": 8, "alpha": 16}
    document["serve"]["probes"] |= {"rows": 4, "max_new_tokens": 8}
    document["serve"] |= {"dtype": "fp32"}
    fetch(as_params(document), root)
    for split, first, count in zip(layout.SPLIT_NAMES, (0, 100, 200), (24, 6, 6), strict=True):
        rows = [
            training_tree.row(first + i, f"{'show ' * (1 + i % 3)}the {service}", service)
            for i in range(count)
            for service in [training_tree.SERVICES[i % 4]]
        ]
        files.write_jsonl(root / layout.SPLITS / f"{split}.jsonl", rows)
    training_tree.seal(root)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_base_is_trained_merged_and_asked_by_parameters_alone(
    tmp_path: Path, document: dict[str, Any], name: str
) -> None:
    from transformers import AutoTokenizer

    lay_out(tmp_path, document, name, steps=2)
    params = as_params(document)
    train(params, tmp_path)
    merge(params, tmp_path)
    probe(params, tmp_path)

    assert files.read_json(tmp_path / layout.TRAIN_REPORT, TrainReport).steps == 2
    parity = files.read_json(tmp_path / layout.PARITY_REPORT, ParityReport)
    assert parity.max_logprob_diff < 1e-3
    merged = AutoTokenizer.from_pretrained(tmp_path / layout.MERGED)
    end = merged.convert_tokens_to_ids(ENDS[FAMILIES[name][-1]])
    report = files.read_json(tmp_path / layout.PROBES, ProbeReport)
    assert set(report.ends) == {end, 2}
    assert all(each.tokens for each in report.probes)
    # Training, evaluation and validate see the same prompt, and servers read the same end.
    rows = files.read_jsonl(tmp_path / layout.SPLITS / "valid.jsonl", Row)
    lengths = chat_tokens.counter(tmp_path / layout.BASE)(rows)
    assert [length.prompt for length in lengths[:4]] == [len(each.prompt_tokens) for each in report.probes]
    settings = json.loads((tmp_path / layout.MERGED / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == merged.eos_token == ENDS[FAMILIES[name][-1]]
    assert digest.of_bytes(settings["chat_template"].encode()) == parity.files["chat_template.jinja"].sha256
    generation = json.loads((tmp_path / layout.MERGED / "generation_config.json").read_text())
    assert set(generation["eos_token_id"]) == {end, 2}


def test_another_template_is_another_prompt_to_the_same_weights(tmp_path: Path, document: dict[str, Any]) -> None:
    formats = []
    for number, template in enumerate(("gemma", "plain")):
        root = tmp_path / str(number)
        make_base(root / "model", "gemma 3")
        (root / "rows.jsonl").write_text("{}\n")
        pin = digest.of_tree(root / "model").digest.removeprefix("sha256:")
        document["base"] |= {"uri": "model", "sha256": pin, "chat_template": template}
        document["data"] |= {"uri": "rows.jsonl", "sha256": digest.of_bytes(b"{}\n").removeprefix("sha256:")}
        params = as_params(document)
        fetch(params, root)
        formats.append(answers.prompt_format(root / layout.BASE, params.evaluate))
    assert formats[0] != formats[1]


def test_a_model_learns_to_end_its_answer_in_the_templates_token(tmp_path: Path, document: dict[str, Any]) -> None:
    lay_out(tmp_path, document, "gemma 3", steps=60)
    params = as_params(document)
    train(params, tmp_path)
    merge(params, tmp_path)
    probe(params, tmp_path)
    report = files.read_json(tmp_path / layout.PROBES, ProbeReport)
    from transformers import AutoTokenizer

    end = AutoTokenizer.from_pretrained(tmp_path / layout.MERGED).convert_tokens_to_ids("<end_of_turn>")
    assert [each.text for each in report.probes] == list(training_tree.SERVICES)
    assert {each.tokens[-1].id for each in report.probes} == {end}
    assert not any(each.base_text == each.text for each in report.probes)
