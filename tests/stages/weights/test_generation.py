"""generation_config.json of the merged directory: nothing in it changes which token is chosen."""

import json
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import MergeRefused
from stages.weights import export

# As published: Qwen2.5-Instruct and Llama 3.1; and every other field that chooses.
QWEN = {
    "bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0",
}  # fmt: skip
CHOOSING: dict[str, Any] = {
    "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [5], "begin_suppress_tokens": [5],
    "bad_words_ids": [[5]], "sequence_bias": [[[5], -9.0]], "forced_bos_token_id": 5, "forced_eos_token_id": 5,
    "min_length": 9, "min_new_tokens": 9, "max_length": 4, "max_new_tokens": 4, "num_beams": 4, "length_penalty": 2.0,
    "exponential_decay_length_penalty": [1, 2.0], "penalty_alpha": 0.6, "guidance_scale": 1.5, "temperature": 0.7,
    "stop_strings": ["a"], "a_field_of_tomorrow": 1,
}  # fmt: skip


def write(folder: Path, **said: dict[str, Any]) -> Path:
    for name, value in said.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "generation_config.json").read_text())
    return found


@pytest.mark.parametrize("key", CHOOSING)
def test_what_chooses_is_taken_out_and_named(key: str, tmp_path: Path) -> None:
    write(tmp_path, config={}, generation_config={"eos_token_id": [2], key: CHOOSING[key]})
    assert export.neutralise(tmp_path) == (key,)
    assert read(tmp_path) == {"eos_token_id": [2]}


def test_what_says_nothing_of_the_choice_stays_to_the_byte(tmp_path: Path) -> None:
    plain = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "use_cache": True}
    write(tmp_path, config={}, generation_config=plain)
    before = (tmp_path / "generation_config.json").read_bytes()
    assert export.neutralise(tmp_path) == ()
    assert (tmp_path / "generation_config.json").read_bytes() == before


def test_a_published_file_keeps_its_end_tokens_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, config={}, generation_config=QWEN)
    left_out = export.neutralise(tmp_path)
    assert left_out == ("do_sample", "repetition_penalty", "temperature", "top_k", "top_p")
    assert read(tmp_path)["eos_token_id"] == [151645, 151643]
    assert export.neutralise(tmp_path) == ()


def test_without_the_file_servers_read_config_json_so_one_is_written_of_its_ids_alone(tmp_path: Path) -> None:
    write(tmp_path, config={"eos_token_id": 2, "repetition_penalty": 1.2, "hidden_size": 8})
    assert export.neutralise(tmp_path) == ()
    assert read(tmp_path) == {"eos_token_id": 2}


@pytest.mark.parametrize("text", ["{", "[]", "\ud800"])
def test_a_file_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(MergeRefused, match=r"generation_config\.json: "):
        export.neutralise(tmp_path)


@pytest.mark.slow
def test_transformers_answers_as_if_no_base_had_ever_named_a_penalty(tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from transformers import AutoModelForCausalLM

    def answer(folder: Path) -> list[int]:
        model = AutoModelForCausalLM.from_pretrained(folder)
        return list(model.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=24, do_sample=False)[0].tolist())

    plain = answer(tiny_base)
    named = shutil.copytree(tiny_base, tmp_path / "named")
    (named / "generation_config.json").write_text(json.dumps({"suppress_tokens": [plain[4]]}))
    assert answer(named) != plain
    export.neutralise(named)
    assert answer(named) == plain
