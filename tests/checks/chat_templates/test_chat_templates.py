"""base.chat_template: a template for a base that has none, in training, evaluation and what ships."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.data_reports import FetchReport
from checks.kinds.chat_template import TEMPLATES
from checks.process.errors import ParamsRefused, SourceRefused
from checks.storage import digest, files, layout
from stages import still_pinned
from stages.fetch import fetch
from tests.conftest import CHAT_TEMPLATE, as_params

pytestmark = pytest.mark.slow

MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "list the disks"},
    {"role": "assistant", "content": "disk"},
]
# What each one writes for that chat, with <s> and </s> at the ends of texts.
WRITTEN = {
    "chatml": (
        "<s><|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nlist the disks<|im_end|>\n"
        "<|im_start|>assistant\ndisk<|im_end|>\n"
    ),
    "gemma": (
        "<s><start_of_turn>user\nbe brief\n\nlist the disks<end_of_turn>\n<start_of_turn>model\ndisk<end_of_turn>\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nlist the disks<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\ndisk<|eot_id|>"
    ),
    "plain": "<s>System:\nbe brief\n\nUser:\nlist the disks\n\nAssistant:\ndisk</s>\n\n",
}  # fmt: skip
WRITTEN["hermes"] = WRITTEN["chatml"]  # without tools
ENDS = {
    "chatml": "<|im_end|>",
    "hermes": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "plain": "</s>",
}


def make_base(folder: Path, marks: tuple[str, ...] = MARKS, template: str | None = None) -> Path:
    """A model's folder with a real tokenizer that has these marks as tokens, and weights that nobody reads here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<pad>", "<s>", "</s>", *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["list the disks user system assistant"], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "eos_token_id": 2, "bos_token_id": 1}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def pin(path: Path) -> str:
    found = digest.of_tree(path).digest if path.is_dir() else digest.of_file(path).sha256
    return found.removeprefix("sha256:")


@pytest.fixture
def document(document: dict, tmp_path: Path) -> dict[str, Any]:
    """Parameters whose base has no chat template."""
    make_base(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    document["base"] |= {"uri": "model", "sha256": pin(tmp_path / "model")}
    document["data"] |= {"uri": "rows.jsonl", "sha256": pin(tmp_path / "rows.jsonl")}
    return document


def fetched(document: dict[str, Any], root: Path) -> Any:
    """The tokenizer of the base that fetch makes."""
    from transformers import AutoTokenizer

    fetch(as_params(document), root)
    return AutoTokenizer.from_pretrained(root / layout.BASE)


def template_file(document: dict[str, Any], root: Path, text: str) -> None:
    (root / "chat.jinja").write_text(text)
    document["base"]["chat_template"] = {"file": "chat.jinja", "sha256": pin(root / "chat.jinja")}


def test_there_is_a_case_for_every_named_template() -> None:
    assert set(WRITTEN) == set(ENDS) == set(TEMPLATES.kinds)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_named_template_is_written_with_the_token_that_ends_an_answer(
    document: dict, tmp_path: Path, name: str
) -> None:
    document["base"]["chat_template"] = name
    tokenizer = fetched(document, tmp_path)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == WRITTEN[name]
    prompt = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(CHAT, return_dict=False)
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    assert whole[: len(prompt)] == prompt
    assert tokenizer.eos_token_id == end
    assert end in whole[len(prompt) :]
    ids = json.loads((tmp_path / layout.BASE / "generation_config.json").read_text())
    assert ids == {"bos_token_id": 1, "eos_token_id": list(dict.fromkeys([end, 2]))}
    report = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
    assert report.base.chat_template == digest.of_bytes(TEMPLATES.kinds[name].text.encode())
    assert report.data.chat_template is None


def test_chatml_begins_with_no_second_start_token_where_that_token_begins_turns(document: dict, tmp_path: Path) -> None:
    settings = tmp_path / "model/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"bos_token": "<|im_start|>"}))
    document["base"] |= {"sha256": pin(tmp_path / "model"), "chat_template": "chatml"}
    text = fetched(document, tmp_path).apply_chat_template(CHAT, tokenize=False)
    assert text == WRITTEN["chatml"].removeprefix("<s>")


def test_a_file_takes_the_place_of_the_models_own_template_wherever_that_was(document: dict, tmp_path: Path) -> None:
    settings = tmp_path / "model/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": CHAT_TEMPLATE}))
    (tmp_path / "model/generation_config.json").write_text(
        '{"_from_model_config": true, "eos_token_id": [2, 0], "temperature": 0.5}'
    )
    document["base"]["sha256"] = pin(tmp_path / "model")
    own = fetched(document, tmp_path)
    report = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
    assert (own.chat_template, report.base.chat_template) == (CHAT_TEMPLATE, digest.of_bytes(CHAT_TEMPLATE.encode()))

    text = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% if m['role'] == 'assistant' %} <|eot_id|>{% endif %}{% endfor %}\n"
    template_file(document, tmp_path, text)
    given = fetched(document, tmp_path)
    assert given.apply_chat_template(CHAT[-1:], tokenize=False) == "[assistant] disk <|eot_id|>"
    assert given.eos_token == "<|eot_id|>"
    after = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
    assert after.base.chat_template == f"sha256:{pin(tmp_path / 'chat.jinja')}"
    assert after.base.digest != report.base.digest
    assert "chat_template" not in json.loads((tmp_path / layout.BASE / "tokenizer_config.json").read_text())
    ids = json.loads((tmp_path / layout.BASE / "generation_config.json").read_text())
    assert ids == {"eos_token_id": [given.eos_token_id, 2, 0], "temperature": 0.5}


def _without(*marks: str) -> Callable[[dict[str, Any], Path], None]:
    def change(document: dict[str, Any], root: Path) -> None:
        make_base(root / "model", tuple(mark for mark in MARKS if mark not in marks))
        document["base"] |= {"sha256": pin(root / "model"), "chat_template": "chatml"}

    return change


def _file(text: str, **keys: Any) -> Callable[[dict[str, Any], Path], None]:
    def change(document: dict[str, Any], root: Path) -> None:
        template_file(document, root, text)
        document["base"]["chat_template"] |= keys

    return change


def _not_utf8(document: dict[str, Any], root: Path) -> None:
    template_file(document, root, "x")
    (root / "chat.jinja").write_bytes(b"\xff")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda *_: None, r"base.uri: model: has no chat template; use the model's instruct variant, or set base.chat_template to chatml or gemma or hermes or llama3 or plain or a file of your own"),
        (_without("<|im_end|>"), r"base.chat_template: chatml needs <\|im_end\|>, which the model's tokenizer does not have; use gemma or llama3 or plain or a file"),
        (_without(*MARKS), r"chatml needs <\|im_start\|>, <\|im_end\|>, which the model's tokenizer does not have; use plain or a file of your own"),
        (_file("x", sha256=None), r"base.chat_template.sha256: chat.jinja is not pinned; pin it: sha256: [0-9a-f]{64}"),
        (_file("x", sha256="0" * 64), r"base.chat_template.sha256: 0{64} is pinned, but chat.jinja is [0-9a-f]{64}; restore it"),
        (_file("x", file="absent.jinja"), r"base.chat_template.file: absent.jinja: No such file or directory; name a text file"),
        (_file("x", file="../chat.jinja"), r"'../chat.jinja' is not in this repository; write its path"),
        (_file("x", file="/etc/hostname"), r"'/etc/hostname' is not in this repository"),
        (_not_utf8, r"chat.jinja: is not UTF-8"),
        (_file("{% for %}"), r"base.chat_template: cannot be rendered: TemplateSyntaxError: .*; fix the template"),
        (_file("{{ messages[7]['content'] }}"), r"base.chat_template: cannot be rendered: UndefinedError"),
        (_file("{{ messages[0]['content'] + 1 }}"), r"base.chat_template: cannot be rendered: TypeError"),
        (_file("{{ raise_exception('no') }}"), r"base.chat_template: cannot be rendered: TemplateError: no"),
        (_file("{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"), r"no token of the model ends an answer: the template writes '<\|end\|>' there; end an assistant's turn in a special token that the tokenizer has, or use chatml or gemma"),
        (_file("{{ messages[0]['content'] }}"), r"no token of the model ends an answer: the template writes no answer there"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_serve_is_refused_on_one_line(
    document: dict, tmp_path: Path, change: Callable[[dict[str, Any], Path], None], said: str
) -> None:
    change(document, tmp_path)
    with pytest.raises(SourceRefused, match=rf"^params.yaml: .*{said}") as refusal:
        fetch(as_params(document), tmp_path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / layout.BASE).exists()


def test_an_edited_file_is_refused_before_dvc_starts(document: dict, tmp_path: Path) -> None:
    template_file(document, tmp_path, TEMPLATES.kinds["plain"].text)
    still_pinned.still_pinned(as_params(document), tmp_path)
    (tmp_path / "chat.jinja").write_text("other")
    with pytest.raises(SourceRefused, match=r"base.chat_template.sha256: .* is pinned, but chat.jinja is"):
        still_pinned.still_pinned(as_params(document), tmp_path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("chatlm", "base.chat_template: 'chatlm'; input should be 'chatml', 'gemma', 'hermes', 'llama3' or 'plain'"),
        (3, "base.chat_template: 3; input should be 'chatml', 'gemma', 'hermes', 'llama3' or 'plain'"),
        (
            {"file": "a", "sha_256": None, "sha256": None},
            "base.chat_template.sha_256: unknown key; did you mean sha256?",
        ),
        ({"file": "a"}, "base.chat_template.sha256: missing; add it"),
    ],
)
def test_a_template_that_is_not_one_is_refused_by_who_reads_params_yaml(document: dict, value: Any, said: str) -> None:
    document["base"]["chat_template"] = value
    with pytest.raises(ParamsRefused) as refusal:
        as_params(document)
    assert said in str(refusal.value)
    assert not refusal.value.others
