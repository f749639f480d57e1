"""A base that is asked to think, or not to, by a line of its chat template."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from checks.formats import thinking as formats
from checks.formats.data_reports import FetchReport
from checks.formats.thinking import Thinking
from checks.process.errors import SourceRefused
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from stages.fetch import fetch
from stages.inference import prompts
from stages.merge import copy_companions
from stages.quality import chat_tokens
from stages.weights import chat_template, parity
from tests.conftest import CHAT_TEMPLATE, as_params
from tests.stages.sources.test_sources import sha256
from tests.thinking_template import TEMPLATE

pytestmark = pytest.mark.slow

ASKED = "<|im_start|>user\nlist vm<|im_end|>\n<|im_start|>assistant\n"
CLOSED = "<think>\n\n</think>\n\n"
OPENS = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def _model(base: Path, folder: Path, template: str) -> Path:
    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def _row(*turns: str, reference: str = "vm") -> Row:
    roles = ["user", "assistant"] * len(turns)
    messages = tuple(Message(role=role, content=text) for role, text in zip(roles, turns, strict=False))
    return Row(id="r", messages=messages, reference=reference, group="g", slice="s", source="f:1")


def _asked(folder: Path, *turns: str) -> str:
    """The prompt of a row, as every stage renders it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    row = _row(*turns)
    (ids,) = prompts.tokens(tokenizer, [row.messages], [row], None, Path("rows.jsonl"))
    return str(tokenizer.decode(ids))


@pytest.mark.parametrize(("mode", "ends"), [("always", ""), ("never", CLOSED), ("mixed", "")])
def test_the_mode_decides_how_the_model_is_asked(tmp_path: Path, tiny_base: Path, mode: Any, ends: str) -> None:
    folder = _model(tiny_base, tmp_path / "model", TEMPLATE)
    chat_template.give_thinking(folder, Thinking(mode=mode))
    assert _asked(folder, "list vm") == ASKED + ends
    assert formats.of_model(folder) == Thinking(mode=mode)
    assert formats.of_model(tiny_base) is None
    (tmp_path / "merged").mkdir()
    copy_companions(folder, tmp_path / "merged")
    assert formats.of_model(tmp_path / "merged") == Thinking(mode=mode)
    assert _asked(tmp_path / "merged", "list vm") == ASKED + ends
    # Lengths are counted without transformers, by the same template.
    (lengths,) = chat_tokens.counter(folder)([_row("list vm")])
    asked = AutoTokenizer.from_pretrained(folder).encode(ASKED + ends, add_special_tokens=False)
    assert lengths.prompt == len(asked)


@pytest.mark.parametrize("mode", ["always", "never"])
def test_no_client_can_ask_otherwise(tmp_path: Path, tiny_base: Path, mode: Any) -> None:
    folder = _model(tiny_base, tmp_path / "model", TEMPLATE)
    chat_template.give_thinking(folder, Thinking(mode=mode))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "list vm"}]
    rendered = {
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **asked)
        for asked in ({}, {"enable_thinking": True}, {"enable_thinking": False})
    }
    assert rendered == {ASKED + (CLOSED if mode == "never" else "")}


@pytest.mark.parametrize(
    ("mode", "reference", "learned"),
    [
        ("always", "<think>\nthe name\n</think>\n\nvm", "<think>\nthe name\n</think>\n\nvm<|im_end|>"),
        ("mixed", "vm", f"{CLOSED}vm<|im_end|>"),
        ("never", "vm", "vm<|im_end|>"),
        ("never", "<think>\nthe name\n</think>\n\nvm", "vm<|im_end|>"),
    ],
)
def test_parity_continues_the_prompt_with_an_answer(
    tmp_path: Path, tiny_base: Path, mode: Any, reference: str, learned: str
) -> None:
    folder = _model(tiny_base, tmp_path / "model", TEMPLATE)
    chat_template.give_thinking(folder, Thinking(mode=mode))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    example = parity.encode(tokenizer, _row("list vm", reference=reference))
    assert tokenizer.decode(example.ids[example.start :]) == learned


@pytest.mark.parametrize(
    ("template", "mode", "problem"),
    [
        (CHAT_TEMPLATE, "never", "reads neither enable_thinking nor thinking; set it to mixed"),
        (OPENS, "never", "reads neither enable_thinking nor thinking"),
        (OPENS, "mixed", "begins every answer with <think>; set it to always"),
    ],
)
def test_a_template_that_cannot_be_asked_so_is_refused(
    tmp_path: Path, tiny_base: Path, template: str, mode: Any, problem: str
) -> None:
    folder = _model(tiny_base, tmp_path / "model", template)
    with pytest.raises(SourceRefused, match=problem):
        chat_template.give_thinking(folder, Thinking(mode=mode))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, OPENS])
def test_a_template_without_a_switch_may_always_think(tmp_path: Path, tiny_base: Path, template: str) -> None:
    folder = _model(tiny_base, tmp_path / "model", template)
    chat_template.give_thinking(folder, Thinking(mode="always"))
    assert (folder / "chat_template.jinja").read_text() == template


def test_marks_that_decoding_drops_are_refused(tmp_path: Path, tiny_base: Path) -> None:
    folder = _model(tiny_base, tmp_path / "model", TEMPLATE)
    marks = ("<|im_start|>", "<|im_end|>")
    with pytest.raises(SourceRefused, match=r"thinking.marks: <\|im_start\|> is a special token .*, which no answer"):
        chat_template.give_thinking(folder, Thinking(mode="mixed", marks=marks))


def test_fetch_gives_it_to_the_base_and_its_report_has_the_new_digests(
    tmp_path: Path, tiny_base: Path, document: dict
) -> None:
    _model(tiny_base, tmp_path / "model", TEMPLATE)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    pinned = digest.of_tree(tmp_path / "model").digest.removeprefix("sha256:")
    document["base"] |= {"uri": "model", "sha256": pinned, "thinking": {"mode": "never"}}
    document["data"] |= {"uri": "rows.jsonl", "sha256": sha256(b"{}\n")}
    fetch(as_params(document), tmp_path)
    base = tmp_path / layout.BASE
    assert _asked(base, "list vm") == ASKED + CLOSED
    report = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
    assert report.base.digest == digest.of_tree(base).digest
    assert report.base.chat_template == digest.of_file(base / "chat_template.jinja").sha256
