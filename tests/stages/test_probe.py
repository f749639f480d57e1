"""The stage probe on tiny models: the answers a server will be held to, and what refuses to be asked."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from checks.config.params import Params
from checks.formats.serving import ProbeReport
from checks.process.errors import EvaluationRefused, EvidenceRefused
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from stages import probe as stage
from stages.inference import generate, token_by_token
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow


def _rows(count: int) -> list[Row]:
    words = ["queue", "table", "disk", "vault", "image", "key", "list", "show", "create", "delete"]
    return [
        Row(
            id=f"{n:016x}",
            messages=(Message(role="user", content=f"show the {words[n % 10]} {words[n * 3 % 10]} {n}"),),
            reference=words[n % 10],
            group=f"g{n}",
            slice="s",
            source=f"file:{n}",
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A base, another tiny model as the merged one, and a valid split. Read-only by custom."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("pair")
    for name in (layout.BASE, layout.MERGED):
        shutil.copytree(tiny_base, folder / name)
    torch.manual_seed(9)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    for weight in model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    for old in (folder / layout.MERGED).glob("model*"):
        old.unlink()
    model.save_pretrained(folder / layout.MERGED)
    files.write_jsonl(folder / layout.SPLITS / "valid.jsonl", _rows(20))
    return folder


@pytest.fixture
def root(pair: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return shutil.copytree(pair, tmp_path, dirs_exist_ok=True)


class Probed(NamedTuple):
    """Models that were probed, what the stage said, and its report."""

    root: Path
    params: Params
    line: str
    report: ProbeReport


@pytest.fixture(scope="module")
def probed(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Probed:
    """One run of the stage. Read-only by custom."""
    document = scaled_down()
    document["serve"] |= {"dtype": "fp32", "probes": {"rows": 10, "max_new_tokens": 12}}
    root, params = tmp_path_factory.mktemp("probed"), as_params(document)
    shutil.copytree(pair, root, dirs_exist_ok=True)
    line = stage.probe(params, root)
    return Probed(root, params, line, _report(root))


def _report(root: Path) -> ProbeReport:
    return files.read_json(root / layout.PROBES, ProbeReport)


def test_each_token_is_the_greedy_one_and_knows_how_far_the_second_best_was(probed: Probed) -> None:
    import torch

    root, params, _, report = probed
    assert len(report.probes) == params.serve.probes.rows
    assert report.merged == digest.of_tree(root / layout.MERGED).digest
    model, tokenizer = generate.load(root / layout.MERGED, "fp32")
    for probe in report.probes:
        ids = [token.id for token in probe.tokens]
        with torch.inference_mode():
            whole = torch.tensor([[*probe.prompt_tokens, *ids]])
            logprobs = model(whole).logits[0, len(probe.prompt_tokens) - 1 : -1].log_softmax(-1)
        assert logprobs.argmax(-1).tolist() == ids
        for token, row in zip(probe.tokens, logprobs, strict=True):
            best = row.topk(2)
            assert token.logprob == pytest.approx(float(best.values[0]), abs=1e-4)
            assert token.runner_up == int(best.indices[1])
            assert token.lead == pytest.approx(float(best.values[0] - best.values[1]), abs=1e-4)
        assert probe.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert probe.ended or len(ids) == params.serve.probes.max_new_tokens
        templated = tokenizer.apply_chat_template(
            [m.model_dump() for m in probe.messages], add_generation_prompt=True, return_dict=False
        )
        assert list(probe.prompt_tokens) == templated


def test_the_first_prompts_get_a_long_answer_in_which_no_token_may_end_it(probed: Probed) -> None:
    """The likeliest of the other tokens, with the model's own log-probabilities, as servers report them."""
    import torch

    report = probed.report
    model, tokenizer = generate.load(probed.root / layout.MERGED, "fp32")
    assert report.ends == tuple(sorted(generate.end_tokens(model, tokenizer)))
    assert [len(probe.unended) for probe in report.probes] == [stage._TOKENS] * 8 + [0] * (len(report.probes) - 8)
    for probe in report.probes[:8]:
        ids = [token.id for token in probe.unended]
        with torch.inference_mode():
            whole = torch.tensor([[*probe.prompt_tokens, *ids]])
            logprobs = model(whole).logits[0, len(probe.prompt_tokens) - 1 : -1].log_softmax(-1)
        allowed = logprobs.clone()
        allowed[:, list(report.ends)] = -torch.inf
        assert allowed.argmax(-1).tolist() == ids
        for token, row, rest in zip(probe.unended, logprobs, allowed, strict=True):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
            assert token.runner_up == int(rest.topk(2).indices[1])
            assert token.lead >= 0


def test_the_base_is_asked_the_same_and_answers_otherwise(probed: Probed) -> None:
    probes = probed.report.probes
    differ = sum(probe.text != probe.base_text for probe in probes)
    assert differ > 0
    assert f"the base answers {differ} of them otherwise" in probed.line
    assert all(
        bool(probe.base_unended) == bool(probe.unended) and probe.base_unended != probe.without_end().text
        for probe in probes
        if probe.unended
    )


def test_fewer_rows_than_asked_for_are_all_asked_and_twice_with_the_same_bytes(root: Path, params: Params) -> None:
    files.write_jsonl(root / layout.SPLITS / "valid.jsonl", _rows(3))
    stage.probe(params, root)
    assert len(_report(root).probes) == 3
    before = (root / layout.PROBES).read_bytes()
    stage.probe(params, root)
    assert (root / layout.PROBES).read_bytes() == before


def test_an_empty_split_is_refused(root: Path, params: Params) -> None:
    files.write_jsonl(root / layout.SPLITS / "valid.jsonl", [])
    with pytest.raises(EvaluationRefused, match=r"valid.jsonl: has no rows"):
        stage.probe(params, root)


@pytest.mark.parametrize("folder", [layout.BASE, layout.MERGED])
def test_a_missing_model_is_refused_and_nothing_is_written(root: Path, params: Params, folder: Path) -> None:
    shutil.rmtree(root / folder)
    with pytest.raises(EvidenceRefused, match=str(folder)):
        stage.probe(params, root)
    assert not (root / layout.PROBES).exists()


def test_a_prompt_that_the_server_has_no_room_for_is_refused(root: Path, params: Params) -> None:
    long = _rows(1)[0].model_copy(update={"messages": (Message(role="user", content="disk " * 400),)})
    files.write_jsonl(root / layout.SPLITS / "valid.jsonl", [long])
    with pytest.raises(EvaluationRefused, match="too long"):
        stage.probe(params, root)


def test_weights_that_compute_nothing_finite_are_refused(root: Path, params: Params) -> None:
    from safetensors.torch import load_file, save_file

    shard = root / layout.MERGED / "model.safetensors"
    tensors = load_file(shard)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * float("nan")
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(EvaluationRefused, match="not finite"):
        stage.probe(params, root)


def test_a_character_of_several_tokens_belongs_to_the_one_that_completes_it(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    text = "ключ ☁ 🦊 end"
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = token_by_token.pieces(tokenizer, ids)
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "☁" in pieces


def test_an_answer_cut_inside_a_character_keeps_what_is_there(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    ids = tokenizer.encode("ok ☁", add_special_tokens=False)[:-1]
    assert "".join(token_by_token.pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_special_tokens_spell_nothing(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert token_by_token.pieces(tokenizer, [tokenizer.eos_token_id]) == [""]


def test_text_that_a_later_token_changes_belongs_to_that_token() -> None:
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("a b", "c"), decoders.Replace("ab", "c")])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    assert token_by_token.pieces(wrapped, [0, 1]) == ["", "c"]


def test_a_byte_that_fits_no_character_changes_the_bytes_before_it() -> None:
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE({"a": 0, "<0x0A>": 1, "<0xF0>": 2}, [], byte_fallback=True))
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    pieces = token_by_token.pieces(PreTrainedTokenizerFast(tokenizer_object=raw), [0, 1, 2])
    assert pieces == ["a", "", "\N{REPLACEMENT CHARACTER}" * 2]


def test_the_report_reads_as_json_of_the_documented_shape(probed: Probed) -> None:
    plain = json.loads((probed.root / layout.PROBES).read_text())
    assert set(plain["probes"][0]) == {
        "id", "messages", "prompt_tokens", "tokens", "ended", "base_text", "unended", "base_unended",
    }  # fmt: skip
