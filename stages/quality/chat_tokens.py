"""Tokens of a row as training and serving see it: through the base's chat template, without importing torch.

In: models/base (``tokenizer.json``, and the template in ``chat_template.jinja`` or ``tokenizer_config.json``). The
template is rendered as transformers renders it; a base without ``tokenizer.json`` is read with transformers itself.

A rendered chat is one text. So a control token that stands in a row's own text is a real one to the model: the end of a
turn, or the begin of one that nobody wrote. ``control`` finds such texts.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import JsonValue

from checks.process.errors import DataRefused, EvidenceRefused
from checks.records import tool_calls
from checks.records.rows import Message, Row

_SPECIAL = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
)
# Matches control tokens of bases that do not declare them special.
_BARRED = re.compile(r"<[|\uff5c].+[|\uff5c]>")
_ENDS = re.compile(r"(?:\s|</s>|<\|?\w+\|?>)+\Z")  # tokens after an answer


class Lengths(NamedTuple):
    """Token counts of one row. Their sum is what training sees, except for white space at the end of the template."""

    prompt: int  # up to where the answer starts
    reference: int  # the answer and the token that ends it: what generation has to reach


def counter(base: Path) -> Callable[[Sequence[Row]], list[Lengths]]:
    """Return a function that counts tokens of rows. Raises EvidenceRefused without a tokenizer or a chat template."""
    template = _template(base)
    encode = _encoder(base)

    def count(rows: Sequence[Row]) -> list[Lengths]:
        prompts, whole = [], []
        for row in rows:
            turns = [_turn(message) for message in row.messages]
            prompts.append(_render(template, row, turns, True))
            turns.append(
                _turn(row.answer) if row.calls else {"role": "assistant", "content": row.reference}
            )
            whole.append(_render(template, row, turns, False).rstrip())
            if row.has_calls:
                _refuse_unread(template, row, turns, prompts[-1], whole[-1])
        lengths = encode([*prompts, *whole])
        return [
            Lengths(a, max(0, w - a)) for a, w in zip(lengths, lengths[len(rows) :], strict=False)
        ]

    return count


def control(base: Path, columns: Sequence[str]) -> Callable[[Row], str | None]:
    """Return a function that says where a row's own text has a control token of ``base``; None where it has none.

    ``columns`` are the further columns that training learns from. Control tokens are the tokens that the tokenizer
    declares special, and added ones between bars, such as ``<|user|>``.
    """
    config = _json(base / "tokenizer_config.json")
    added = [
        *_json(base / "tokenizer.json").get("added_tokens", ()),
        *config.get("added_tokens_decoder", {}).values(),
    ]
    named = [config[name] for name in _SPECIAL if config.get(name)]
    special = {token["content"] if isinstance(token, dict) else token for token in named}
    special |= {
        token["content"]
        for token in added
        if token.get("special") or _BARRED.fullmatch(token["content"])
    }
    # A token of one letter is plain text.
    tokens = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def find(row: Row) -> str | None:
        if pattern is None:
            return None
        texts = [*((f"a turn of the {message.role}", message.text) for message in row.messages)]
        texts += [
            ("the reference", row.reference),
            *((name, _plain(row.extra.get(name))) for name in columns),
        ]
        texts += [("tools", _plain(list(row.tools)))] if row.tools else []
        places = (
            f"{match[0]} in {place}" for place, text in texts if (match := pattern.search(text))
        )
        return next(places, None)

    return find


def _plain(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = (
            json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        )
    except ValueError as error:
        raise EvidenceRefused(
            f"{path}: is not JSON: {error}", "run `./lockstep run fetch` to make it again"
        ) from error
    return document


def _encoder(base: Path) -> Callable[[list[str]], list[int]]:
    if (base / "tokenizer.json").is_file():
        import tokenizers

        try:
            fast = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise EvidenceRefused(
                f"{base}/tokenizer.json: {error}", "run `./lockstep run fetch` to make it again"
            ) from error
        fast.no_truncation()
        fast.no_padding()
        os.environ["TOKENIZERS_PARALLELISM"] = "true"  # validate starts no process afterwards
        return lambda texts: [
            len(encoded) for encoded in fast.encode_batch_fast(texts, add_special_tokens=False)
        ]
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise EvidenceRefused(
            f"{base}: holds no tokenizer", "run `./lockstep run fetch` to make it again"
        ) from error
    return lambda texts: [len(slow.encode(text, add_special_tokens=False)) for text in texts]


def _template(base: Path) -> Callable[..., str]:
    config = _json(base / "tokenizer_config.json")
    text = config.get("chat_template")
    if isinstance(text, list):  # several, by name
        text = {named["name"]: named["template"] for named in text}.get("default")
    if (own := base / "chat_template.jinja").is_file():
        text = own.read_text(encoding="utf-8")
    if not isinstance(text, str):
        raise EvidenceRefused(
            f"{base}: has no chat template", "set base.uri to a model with one, an Instruct model"
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    environment.globals["raise_exception"] = _raise
    # A length must not depend on today.
    environment.globals["strftime_now"] = lambda _: "2000-01-01"
    special = {name: config[name] for name in _SPECIAL if config.get(name)}
    texts = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in special.items()
    }
    try:
        compiled = environment.from_string(text)
        # Jinja copies the globals at every rendering, and a ChainMap in slow Python.
        compiled.globals = dict(compiled.globals)
    except TemplateError as error:
        raise EvidenceRefused(
            f"{base}: its chat template is malformed: {error}", "fix the base model"
        ) from error
    return lambda messages, tools, start: compiled.render(
        messages=messages, tools=tools, add_generation_prompt=start, **texts
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _turn(message: Message) -> dict[str, Any]:
    if message.tool_calls or message.role == "tool":
        return message.model_dump()
    # Without further keys a plain dictionary is five times as fast, for a million rows.
    return {"role": message.role, "content": message.content}


def _refuse_unread(
    template: Callable[..., str], row: Row, turns: list[dict[str, Any]], prompt: str, whole: str
) -> None:
    """Refuse a template that leaves out tools, results or calls, or writes calls in a form that nothing here reads.

    ``turns``: with the answer.
    """
    wrong, asked = None, turns[:-1]
    results = [
        turn | {"content": turn["content"] + "0"} if turn["role"] == "tool" else turn
        for turn in asked
    ]
    silent = [{key: value for key, value in turn.items() if key != "tool_calls"} for turn in asked]
    if row.tools and _is_read_as(prompt, template, asked, None):
        wrong = "ignores tools: it renders the prompt alike with and without them"
    elif results != asked and _is_read_as(prompt, template, results, row.schemas):
        wrong = "leaves out the results of calls"
    elif silent != asked and _is_read_as(prompt, template, silent, row.schemas):
        wrong = "leaves out calls of earlier turns"
    elif row.calls:
        wrong = _unlike(row, whole.removeprefix(prompt))
    if wrong:
        raise DataRefused(
            f"row {row.id} ({row.source}): the base's chat template {wrong}",
            "take a base whose template knows tools, such as Qwen2.5's, or set base.chat_template to such a file",
        )


def _is_read_as(
    prompt: str, template: Callable[..., str], turns: list[dict[str, Any]], tools: Any
) -> bool:
    try:
        return template(turns, tools, True) == prompt
    except TemplateError:  # it refuses calls without results, or results without calls
        return False


def _unlike(row: Row, text: str) -> str | None:
    """Return what of the row's calls is not in its rendered answer."""
    content = row.answer.content.strip()
    try:
        calls = tool_calls.read(_ENDS.sub("", text))
    except tool_calls.MalformedCall:
        calls = ()
    wanted = [tool_calls.Call(call.function.name, call.function.arguments) for call in row.calls]
    if [*map(tool_calls.comparable, calls)] != [*map(tool_calls.comparable, wanted)]:
        return "writes calls in a form that the scorer tool-call does not read: docs/how-to/data.md#tools"
    return f"leaves out the text beside a call: {content[:40]!r}" if content not in text else None


def _render(
    template: Callable[..., str], row: Row, turns: list[dict[str, Any]], start: bool
) -> str:
    try:
        return template(turns, row.schemas, start)
    except TemplateError as error:
        raise DataRefused(
            f"row {row.id} ({row.source}): the base's chat template refuses it: {error}",
            "change the turns or prepare.loader.instruction, or take another base",
        ) from error
