"""Export: config and tokenizer that transformers 5 and servers on 4.51 read as the same model, or a refusal."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checks.process.errors import MergeRefused
from checks.storage import digest
from stages.merge import copy_companions
from stages.weights import export
from tests import pipeline_repository as repository
from tests.conftest import CHAT_TEMPLATE
from tests.pipeline_repository import environment

pytestmark = pytest.mark.slow

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN: dict[str, Any] = {"factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0}
LONG: dict[str, Any] = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 4.0, 6.0, 8.0]}


def rope(kind: str = "default", theta: float = 1e6, **scaling: Any) -> dict[str, Any]:
    """RoPE as transformers 5 spells it."""
    return {"rope_type": kind, "rope_theta": theta} | scaling


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (rope(), {"rope_theta": 1e6}),
        (rope(partial_rotary_factor=0.5), {"rope_theta": 1e6, "partial_rotary_factor": 0.5}),
        ({"rope_type": "default"}, {}),
        (rope("linear", factor=2.0), {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        (rope("dynamic", factor=2.0), {"rope_theta": 1e6, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        (rope("llama3", **LLAMA3), {"rope_theta": 1e6, "rope_scaling": {"rope_type": "llama3"} | LLAMA3}),
        (rope("yarn", **YARN), {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn"} | YARN}),
        (rope("yarn", **YARN, mscale=None), {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn"} | YARN}),
        ({"type": "linear", "factor": 2.0, "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    ],
)  # fmt: skip
def test_the_old_spelling_of_rope_is_added_and_nothing_else_changes(new: dict, old: dict) -> None:
    before = {"model_type": "llama", "rope_parameters": new, "max_position_embeddings": 256, "hidden_size": 32}
    after = export.config(before)
    assert after == before | old
    assert export.config(after) == after


def test_a_default_that_only_transformers_5_fills_in_is_written_out() -> None:
    """Without the original length, 4.51 fails on llama3 and TGI on YaRN."""
    llama3 = {key: value for key, value in LLAMA3.items() if not key.startswith("original")}
    after = export.config({"rope_parameters": rope("llama3", **llama3), "max_position_embeddings": 256})
    assert after["rope_scaling"] == {"rope_type": "llama3", "original_max_position_embeddings": 256} | llama3


@pytest.mark.parametrize("original", [{}, {"original_max_position_embeddings": 64}])
def test_a_context_that_yarn_did_not_extend_is_extended_since_4_51_takes_the_factor_from_it(original: dict) -> None:
    after = export.config({"rope_parameters": rope("yarn", factor=4.0, **original), "max_position_embeddings": 64})
    assert after["max_position_embeddings"] == 256
    assert after["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert export.config(after) == after


def test_yarn_in_the_old_spelling_alone_is_extended_as_well() -> None:
    before = {"rope_theta": 1e6, "max_position_embeddings": 64, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    after = export.config(before)
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert after == before | {"max_position_embeddings": 256, "rope_scaling": scaling}
    assert export.config(after) == after
    with pytest.raises(MergeRefused, match="YaRN's factor is 4, but"):
        export.config(after | {"max_position_embeddings": 100})


def test_families_that_named_their_rope_otherwise_get_those_names() -> None:
    neox = {"model_type": "gpt_neox", "rope_parameters": rope(theta=5e4, partial_rotary_factor=0.5)}
    assert export.config(neox) == neox | {"rotary_emb_base": 5e4, "rotary_pct": 0.5}
    phi3 = {"model_type": "phi3", "max_position_embeddings": 256, "original_max_position_embeddings": 64}
    phi3["rope_parameters"] = rope("longrope", theta=1e4, original_max_position_embeddings=64, **LONG)
    after = export.config(phi3)
    assert after == phi3 | {"rope_theta": 1e4, "rope_scaling": {"type": "longrope"} | LONG}
    assert export.config(after) == after
    llama = export.config(phi3 | {"model_type": "llama"})
    assert llama["rope_scaling"] == {"rope_type": "longrope", "original_max_position_embeddings": 64} | LONG
    assert llama["original_max_position_embeddings"] == 64


def test_gemma_3_names_its_two_kinds_of_layer_apart_in_its_text_config_too() -> None:
    kinds = {"full_attention": rope("linear", factor=8.0), "sliding_attention": rope(theta=5e3)}
    text = {"model_type": "gemma3_text", "rope_parameters": kinds, "dtype": "bfloat16"}
    old = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 5e3,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "torch_dtype": "bfloat16",
    }
    assert export.config(text) == text | old
    whole = {"model_type": "gemma3", "text_config": text, "dtype": "bfloat16"}
    assert export.config(whole) == whole | {"torch_dtype": "bfloat16", "text_config": text | old}


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2"},
        {"model_type": "llama", "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"model_type": "newer", "rope_parameters": {"a": rope("linear", factor=2.0), "b": rope()}},
        {"model_type": "llama", "rope_parameters": None},
        {"model_type": "phi3", "rope_scaling": {"type": "yarn"} | LONG},
    ],
)
def test_a_config_with_nothing_to_translate_stays_as_it_is(config: dict) -> None:
    assert export.config(config) == config


@pytest.mark.parametrize(
    "before", [{"dtype": "float16"}, {"torch_dtype": "float16"}, {"dtype": "float16", "torch_dtype": None}]
)
def test_either_spelling_of_dtype_brings_the_other(before: dict) -> None:
    assert export.config(before) == {"dtype": "float16", "torch_dtype": "float16"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"torch_dtype": "float16"}, "config.json: dtype is 'bfloat16', but torch_dtype is 'float16'; correct"),
        ({"rope_theta": 1e4}, r"rope_parameters\.rope_theta is 1000000\.0, but rope_theta is 10000\.0"),
        ({"partial_rotary_factor": 1.0}, r"partial_rotary_factor is 0\.5, but partial_rotary_factor is 1\.0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "but rope_scaling is .'type': 'linear', 'factor': 2"),
        ({"rope_scaling": [2.0]}, r"but rope_scaling is \[2\.0\]"),
        ({"rope_parameters": rope("linear", factor=2.0), "rope_scaling": {"type": "linear", "factor": 4.0}}, "but rope_scaling"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\], not an object"),
        ({"rope_parameters": rope("yarn", **YARN | {"factor": 2.0})}, "YaRN's factor is 2, but .* is 4, which .* make max_position_embeddings 128 in"),
        ({"rope_parameters": rope("yarn")}, "YaRN with factor None"),
        ({"rope_parameters": rope("yarn", factor=float("inf"))}, "YaRN with factor inf"),
        ({"max_position_embeddings": 9, "rope_parameters": rope("yarn", factor=1.1)}, "YaRN's factor is 1.1"),
        ({"text_config": {"dtype": "a", "torch_dtype": "b"}}, "config.json: text_config: dtype is 'a'"),
        ({"model_type": "gpt_neox", "rotary_pct": 0.25}, r"partial_rotary_factor is 0\.5, but rotary_pct is 0\.25"),
        ({"model_type": "phi3", "rope_parameters": rope("longrope", factor=4.0, **LONG)}, "rope_parameters.factor has no place"),
        ({"model_type": "gemma3_text", "rope_parameters": {"sliding_attention": rope("linear", factor=2.0)}}, "sliding_attention is scaled"),
        ({"model_type": "gemma3_text", "rope_local_base_freq": 1.0, "rope_parameters": {"sliding_attention": rope()}}, "but rope_local_base_freq is 1"),
    ],
)  # fmt: skip
def test_spellings_that_disagree_refuse(changes: dict, says: str) -> None:
    config = {
        "model_type": "llama",
        "dtype": "bfloat16",
        "max_position_embeddings": 256,
        "rope_parameters": rope(partial_rotary_factor=0.5),
    }
    with pytest.raises(MergeRefused, match=says) as refused:
        export.config(config | changes)
    assert "\n" not in str(refused.value)


def test_spellings_that_agree_pass_whatever_they_leave_to_the_default() -> None:
    """Numbers compare as numbers, and an older key for the kind of scaling is read."""
    config = {
        "max_position_embeddings": 256,
        "rope_parameters": rope("llama3", theta=500000, **LLAMA3),
        "rope_theta": 500000.0,
        "rope_scaling": {"type": "llama3", "factor": 8} | {k: v for k, v in LLAMA3.items() if k != "factor"},
    }
    assert export.config(config)["rope_scaling"] == {"rope_type": "llama3"} | LLAMA3


@pytest.mark.parametrize(
    ("before", "template", "after"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, None, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"tokenizer_class": "Qwen2Tokenizer"}, "t", {"tokenizer_class": "Qwen2Tokenizer", "chat_template": "t"}),
        ({"chat_template": "t"}, None, {"chat_template": "t"}),
        ({"chat_template": "t"}, "t", {"chat_template": "t"}),
        ({"chat_template": [{"name": "default", "template": "t"}]}, "t", {"chat_template": [{"name": "default", "template": "t"}]}),
        ({"extra_special_tokens": ["<a>"]}, None, {"additional_special_tokens": ["<a>"]}),
        ({"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<a>"]}, None, {"additional_special_tokens": ["<a>"]}),
        ({"extra_special_tokens": {"image_token": "<i>"}}, None, {"extra_special_tokens": {"image_token": "<i>"}}),
    ],
)  # fmt: skip
def test_a_tokenizers_config_is_spelled_for_both(before: dict, template: str | None, after: dict) -> None:
    assert export.tokenizer_config(before, template, {}) == after
    assert export.tokenizer_config(after, template, {}) == after


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ({"chat_template": "other"}, "chat_template is not the text of chat_template.jinja"),
        ({"chat_template": [{"name": "default", "template": "other"}]}, "chat_template is not the text"),
        ({"chat_template": [{"name": "tools", "template": "t"}, 3]}, "no template named default"),
        ({"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>"]}, "extra_special_tokens is .*<a>.*, but additional"),
        ({"tokenizer_class": "SentencePieceBackend"}, "tokenizer_class is SentencePieceBackend, .* tokenizer.json is absent"),
    ],
)  # fmt: skip
def test_a_tokenizers_config_that_cannot_be_spelled_for_both_refuses(before: dict, says: str) -> None:
    with pytest.raises(MergeRefused, match=says):
        export.tokenizer_config(before, "t", None)


def ends(*pieces: str, kind: str = "TemplateProcessing") -> dict[str, Any]:
    """A tokenizer.json that puts tokens around a text, ``$A``."""
    single = [{"Sequence": {"id": "A"}} if piece == "$A" else {"SpecialToken": {"id": piece}} for piece in pieces]
    return {"post_processor": {"type": kind, "single": single}}


@pytest.mark.parametrize(
    ("tokenizer", "bos", "eos"),
    [
        ({"post_processor": None}, False, False),
        (ends("$A"), False, False),
        (ends("<s>", "$A"), True, False),
        ({"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, *ends("<s>", "$A", "</s>").values()]}}, True, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["LlamaTokenizer", "GemmaTokenizerFast"])
def test_the_ends_of_a_text_are_those_of_tokenizer_json_whatever_the_config_said(
    name: str, tokenizer: dict, bos: bool, eos: bool
) -> None:
    before = {"tokenizer_class": name, "bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    after = export.tokenizer_config(before, None, tokenizer)
    assert after == before | {"add_bos_token": bos, "add_eos_token": eos}
    assert export.tokenizer_config({"tokenizer_class": "Qwen2Tokenizer"}, None, tokenizer) == {
        "tokenizer_class": "Qwen2Tokenizer"
    }


@pytest.mark.parametrize("tokenizer", [ends("<a>", "$A"), ends("$A", "</s>", "</s>"), ends(kind="RobertaProcessing")])
def test_ends_that_the_old_class_cannot_add_refuse(tokenizer: dict) -> None:
    before = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    with pytest.raises(
        MergeRefused, match=r"tokenizer\.json: post_processor .* which LlamaTokenizer of older servers cannot"
    ):
        export.tokenizer_config(before, None, tokenizer)


def test_a_directory_in_shards_is_exported_once_and_for_all(tmp_path: Path, tiny_base: Path) -> None:
    folder = tmp_path / "merged"
    shutil.copytree(tiny_base, folder)
    export.spell_both(folder)
    once = digest.of_tree(folder)
    config = json.loads((folder / export.CONFIG).read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"] == "float32"
    tokenizer = json.loads((folder / export.TOKENIZER).read_text())
    assert (tokenizer["chat_template"], tokenizer["tokenizer_class"]) == (CHAT_TEMPLATE, "PreTrainedTokenizerFast")
    changed = {name for name, file in digest.of_tree(tiny_base).files.items() if once.files[name] != file}
    assert changed == {export.CONFIG, export.TOKENIZER}
    export.spell_both(folder)
    assert digest.of_tree(folder) == once


def test_infinity_in_a_config_stays(tmp_path: Path) -> None:
    (tmp_path / export.CONFIG).write_text('{"dtype": "float32", "time_step_limit": [0.0, Infinity]}')
    export.spell_both(tmp_path)
    after = json.loads((tmp_path / export.CONFIG).read_text())
    assert after == {"dtype": "float32", "torch_dtype": "float32", "time_step_limit": [0.0, float("inf")]}
    assert {path.name for path in tmp_path.iterdir()} == {export.CONFIG}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (export.CONFIG, b"{", "config.json: is not JSON"),
        (export.CONFIG, b"[]", "config.json: is not a JSON object"),
        (export.TOKENIZER, b"\xff", "tokenizer_config.json: cannot be read"),
        (export.TEMPLATE, b"\xff", "chat_template.jinja: cannot be read"),
        ("tokenizer.json", b'{"post_processor": {"single": [{}]}}', "tokenizer.json: post_processor cannot be read"),
        ("tokenizer.json", b'{"post_processor": [1]}', "tokenizer.json: post_processor cannot be read"),
        ("chat_template.json", b'{"chat_template": "other"}', "chat_template.json: chat_template is not the text"),
    ],
)
def test_a_file_that_cannot_be_exported_refuses(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / export.CONFIG).write_text("{}")
    (tmp_path / export.TOKENIZER).write_text('{"tokenizer_class": "LlamaTokenizer"}')
    (tmp_path / export.TEMPLATE).write_text("t")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MergeRefused, match=says):
        export.spell_both(tmp_path)


# Read by whichever transformers runs it: each folder's logits, the tokens of a conversation, and the dtype it sees.
READER = """
import json, sys
import numpy, torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
assert transformers.__version__.startswith("4.51." if OLD else "5."), transformers.__version__
talk = [{"role": "user", "content": "show the queue\\n  <tool> naïve"}, {"role": "assistant", "content": "az queue list"},
        {"role": "user", "content": " and delete it"}]
for folder in sys.argv[2:]:
    name = sys.argv[1] + "-" + folder.replace("/", "-").strip("-")
    said = {"plain": None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        said["plain"] = tokenizer("show the queue")["input_ids"]
        if OLD:  # as TGI, which opens no chat_template.jinja
            tokenizer.chat_template = json.load(open(folder + "/tokenizer_config.json")).get("chat_template")
        said["text"] = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        said["ids"] = tokenizer(said["text"], add_special_tokens=False)["input_ids"]
        said["decoded"] = tokenizer.decode(said["ids"])
        ids = tokenizer.apply_chat_template(talk, tokenize=True, add_generation_prompt=True)
        assert said["ids"] == list(ids["input_ids"] if hasattr(ids, "keys") else ids)
    except ValueError as error:
        said["error"] = str(error)
    said["dtype"] = str(getattr(AutoConfig.from_pretrained(folder), "torch_dtype" if OLD else "dtype"))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    with torch.no_grad():
        numpy.save(name + ".npy", model(torch.arange(200)[None] * 37 % 256).logits.numpy())
    open(name + ".json", "w").write(json.dumps(said))
"""


@pytest.fixture(scope="session")
def old_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformers and tokenizers that TGI 3.3.7 locks, to be found before those of this environment."""
    home = tmp_path_factory.mktemp("old")
    wanted = ["transformers==4.51.*", "tokenizers==0.21.*", "huggingface-hub==0.*"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-compile",
        "--target",
        str(home),
        *wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return home


def read_by(label: str, home: Path, names: list[str], **libraries: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Logits, and what the tokenizer said, of each folder of ``home``. ``libraries``: PYTHONPATH of others."""
    import numpy as np

    script = f"OLD = {bool(libraries)}\n{READER}"
    words = [script, label, *names]
    done = subprocess.run(
        [sys.executable, "-c", *words] if libraries else repository.script(*words),
        cwd=home, env=environment(**libraries), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name in names:
        stem = home / f"{label}-{name.replace('/', '-')}"
        found[name] = (np.load(f"{stem}.npy"), json.loads(Path(f"{stem}.json").read_text()))
    return found


def make_tokenizer(folder: Path, family: str, tiny: Path, with_bos: bool) -> None:
    """A tokenizer as transformers 5 saves it: of no family with special tokens of its own, or Qwen's, Llama's, Gemma's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

    learnt = json.loads((tiny / "tokenizer.json").read_text())["model"]
    if family == "qwen2":
        merges = [tuple(pair) for pair in learnt["merges"]]
        tokenizer = Qwen2Tokenizer(vocab=learnt["vocab"], merges=merges, eos_token="<|im_end|>")
    elif family in ("mistral", "gemma3"):
        trained = Tokenizer(models.BPE(byte_fallback=True))
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
        text = ["show the queue and delete list user assistant"] * 9
        trained.train_from_iterator(
            text, trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
        )
        model = json.loads(trained.to_str())["model"]
        kind = GemmaTokenizer if family == "gemma3" else LlamaTokenizer
        tokenizer = kind(
            vocab=model["vocab"],
            merges=[tuple(pair) for pair in model["merges"]],
            bos_token="<s>",
            eos_token="</s>",
            add_bos_token=with_bos,
        )
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny, extra_special_tokens=["<tool>"])
    tokenizer.chat_template = "{{ bos_token or '' }}" + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama-theta": ("Llama", rope(theta=5e5), {}),
    "llama-linear": ("Llama", rope("linear", factor=4.0), {}),
    "llama-dynamic": ("Llama", rope("dynamic", factor=4.0), {"max_position_embeddings": 64}),
    "llama-llama3": ("Llama", rope("llama3", theta=5e5, **LLAMA3), {}),
    "llama-yarn": ("Llama", rope("yarn", **YARN), {}),
    "qwen2-theta": ("Qwen2", rope(), {}),
    "qwen2-yarn": ("Qwen2", rope("yarn", **YARN), {}),
    "qwen2-yarn-not-extended": ("Qwen2", rope("yarn", **YARN), {"max_position_embeddings": 64}),
    "mistral-theta": ("Mistral", rope(), {"sliding_window": None}),
    "mistral-llama3": ("Mistral", rope("llama3", **LLAMA3), {"sliding_window": None}),
    "mistral-yarn": ("Mistral", rope("yarn", **YARN), {"sliding_window": None}),
    "gpt_neox-partial": ("GPTNeoX", rope(theta=5e4, partial_rotary_factor=0.5), {}),
    "phi3-longrope": ("Phi3", rope("longrope", **LONG), {"original_max_position_embeddings": 64}),
    "gemma3-linear": (
        "Gemma3",
        {"full_attention": rope("linear", factor=8.0), "sliding_attention": rope(theta=5e3)},
        {"num_hidden_layers": 6, "sliding_window": 32, "head_dim": 8},
    ),
}


def make_model(folder: Path, name: str, tiny: Path) -> None:
    """A random model of one of SHAPES, whose attention is sharp enough that a wrong RoPE shows."""
    import torch
    import transformers

    family, rope_parameters, settings = SHAPES[name]
    sizes = {
        "vocab_size": 420,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    kind = "Gemma3Text" if family == "Gemma3" else family
    config = getattr(transformers, f"{kind}Config")(**sizes | settings, rope_parameters=rope_parameters)
    torch.manual_seed(3)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder, max_shard_size="40KB")
    make_tokenizer(folder, name.split("-")[0], tiny, with_bos=name == "mistral-yarn")


@pytest.mark.exhaustive
def test_transformers_4_51_reads_the_exported_model_as_transformers_5_does_and_the_bare_one_wrongly(
    tmp_path: Path, tiny_base: Path, old_libraries: Path
) -> None:
    for name in SHAPES:
        bare, exported = tmp_path / "bare" / name, tmp_path / "exported" / name
        make_model(bare, name, tiny_base)
        exported.mkdir(parents=True)
        copy_companions(bare, exported)
        for shard in bare.glob("model*"):
            shutil.copyfile(shard, exported / shard.name)
        export.spell_both(exported)
    bare_names, names = [f"bare/{name}" for name in SHAPES], [f"exported/{name}" for name in SHAPES]
    new = read_by("new", tmp_path, bare_names + names)
    old = read_by("old", tmp_path, bare_names + names, PYTHONPATH=str(old_libraries))
    largest = {}
    for name in SHAPES:
        (truth, said), (again, said_again) = new[f"bare/{name}"], new[f"exported/{name}"]
        (old_logits, old_said), (misread, missaid) = old[f"exported/{name}"], old[f"bare/{name}"]
        assert "error" not in said
        assert (again == truth).all(), name
        assert said_again == said, name
        assert old_said == said, name
        assert missaid["dtype"] == "None"
        generic = "TokenizersBackend" in (tmp_path / "bare" / name / export.TOKENIZER).read_text()
        assert ("TokenizersBackend does not exist" if generic else "chat_template is not set") in missaid["error"]
        largest[name] = (abs(old_logits - truth).max(), abs(misread - truth).max())
    without_bos, with_bos = (new[f"bare/mistral-{name}"][1]["plain"] for name in ("theta", "yarn"))
    assert old["bare/mistral-theta"][1]["plain"] == with_bos == [1, *without_bos]
    assert all(right < 1e-4 < 1e-2 < wrong for right, wrong in largest.values()), largest
