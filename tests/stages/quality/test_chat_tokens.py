"""Tokens of a row as the chat template renders it: those of transformers, and which bases and rows are refused."""

import json
import shutil
from pathlib import Path

import pytest

from checks.process.errors import DataRefused, EvidenceRefused
from stages.quality import chat_tokens
from tests.stages.test_validate import _good, _row

pytestmark = pytest.mark.slow


def test_lengths_are_those_of_transformers(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = [row for rows in _good().values() for row in rows] + [_row(1, prompt="Zähle Ω\n{}", reference="a b")]
    for row, lengths in zip(rows, chat_tokens.counter(tiny_base)(rows), strict=True):
        chat = [message.model_dump() for message in row.messages]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": row.reference}])["input_ids"]
        assert lengths == (len(prompt), len(whole) - len(prompt) - 1)  # the template's last line end is not counted


def test_a_base_without_a_tokenizer_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").unlink()
    with pytest.raises(EvidenceRefused, match="holds no tokenizer"):
        chat_tokens.counter(tmp_path / "base")


def test_a_template_in_the_tokenizers_configuration_counts_too(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    text = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").unlink()
    with pytest.raises(EvidenceRefused, match=r"has no chat template; set base\.uri to a model with one"):
        chat_tokens.counter(base)
    for given in (text, [{"name": "default", "template": text}]):
        (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": given}))
        assert chat_tokens.counter(base)([_row(1)]) == chat_tokens.counter(tiny_base)([_row(1)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json: "),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: is not JSON"),
        ("chat_template.jinja", "{% for %}", "its chat template is malformed"),
    ],
)
def test_a_malformed_tokenizer_is_refused(
    tiny_base: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    (tmp_path / "base" / name).write_text(content)
    with pytest.raises(EvidenceRefused, match=message):
        chat_tokens.counter(tmp_path / "base")


def test_a_row_that_the_template_refuses_is_named(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    with pytest.raises(DataRefused, match=r"row 0{15}1 \(rows\.jsonl:1\): .*refuses it: no system turn"):
        chat_tokens.counter(tmp_path / "base")([_row(1)])
