"""Gives a base a chat template: the text, and the token that ends an answer, wherever trainers and servers look for it.

The merged model has these files too, so what is trained, evaluated and served is asked in one way.
"""

from pathlib import Path
from typing import Any

from checks.config.pipeline_params import Base, TemplateFile
from checks.formats.thinking import Thinking
from checks.kinds.chat_template import TEMPLATES
from checks.process.errors import SourceRefused
from checks.storage import digest, files, layout
from stages import pinned_text
from stages.weights import model_files

# The variables by which templates are asked: of Qwen3, SmolLM3 and GLM, and of DeepSeek V3.1 and Granite.
_SWITCHES = ("enable_thinking", "thinking")
_THINKING = f"{layout.PARAMS}: base.thinking"
_CHAT = [
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "question"},
]


def give_thinking(folder: Path, thinking: Thinking) -> None:
    """Write the mode of ``thinking`` into the chat template of the model in ``folder``, and its marks beside it.

    Raises SourceRefused if the template cannot be asked so, or if the tokenizer drops the marks from answers.
    """
    tokenizer = tokenizer_in(folder)
    for mark in thinking.marks:
        ids = tokenizer.encode(mark, add_special_tokens=False)
        if mark not in tokenizer.decode(ids, skip_special_tokens=True):
            raise SourceRefused(
                f"{_THINKING}.marks: {mark} is a special token of the model, which no answer shows",
                "use a base whose marks are ordinary tokens, or remove base.thinking",
            )
    text = tokenizer.get_chat_template()
    if thinking.mode != "mixed":
        text = _in_mode(tokenizer, text, thinking)
        replace(folder, text.encode())
    opens = _rendered_chat(tokenizer, text).rstrip().endswith(thinking.marks[0])
    if opens and thinking.mode != "always":
        raise SourceRefused(
            f"{_THINKING}.mode: {thinking.mode}, but the chat template begins every answer with {thinking.marks[0]}",
            "set it to always, or use a template that can ask for no thought",
        )
    files.write_json(folder / layout.THINKING, thinking)


def _in_mode(tokenizer: Any, text: str, thinking: Thinking) -> str:
    """Return the template that asks for thoughts always, or never, whatever a caller passes."""
    wanted = thinking.mode == "always"
    for name in _SWITCHES:
        on, off = (_rendered_chat(tokenizer, text, **{name: value}) for value in (True, False))
        if on != off:
            return f"{{%- set {name} = {str(wanted).lower()} %}}{text}"
    if not wanted:
        raise SourceRefused(
            f"{_THINKING}.mode: never, but the chat template reads neither {' nor '.join(_SWITCHES)}",
            "set it to mixed, or use a template that can ask for no thought",
        )
    return text


def _rendered_chat(tokenizer: Any, text: str, **switch: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            _CHAT, chat_template=text, add_generation_prompt=True, tokenize=False, **switch
        )
    )


NAME = "chat_template.jinja"
FIELD = "base.chat_template"
_PLACE = f"{layout.PARAMS}: {FIELD}"
_SETTINGS, _SPECIAL, _OLD = "tokenizer_config.json", "special_tokens_map.json", "chat_template.json"
_GENERATION, _CONFIG = "generation_config.json", "config.json"
_DERIVED = "_from_model_config"  # With it, transformers may take config.json's ids instead.
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_ANSWER = "answer"
_QUESTION = [{"role": "user", "content": "question"}]


def text_of(base: Base, root: Path) -> bytes | None:
    """Return the template that params.yaml gives the base; None if it keeps its own.

    Raises SourceRefused if the file cannot be read or does not have the pinned bytes.
    """
    chosen = base.chat_template
    if isinstance(chosen, TemplateFile):
        return pinned_text.read(root, chosen.file, chosen.sha256, _PLACE, "Jinja")
    return TEMPLATES.kinds[chosen].text.encode() if chosen else None


def refuse_none(folder: Path, name: str) -> None:
    """Raise SourceRefused if the model in ``folder`` has no chat template; ``name`` is its name in refusals."""
    if digest_in(folder) is None:
        raise SourceRefused(
            f"{layout.PARAMS}: base.uri: {name}: has no chat template",
            f"use the model's instruct variant, or set {FIELD} to {_or(_fitting(tokenizer_in(folder)))}",
        )


def give(folder: Path, base: Base, text: bytes) -> None:
    """Write ``text`` as the only chat template of the model in ``folder``, and the token that ends an answer.

    The model keeps the end tokens that it had. Raises SourceRefused if the template cannot be rendered, needs tokens
    that the tokenizer lacks, or ends no answer in a token.
    """
    tokenizer = tokenizer_in(folder)
    template = text.decode()
    if isinstance(base.chat_template, str):
        wanted = TEMPLATES.kinds[base.chat_template].tokens
        if missing := [token for token in wanted if not _is_one(tokenizer, token)]:
            raise SourceRefused(
                f"{_PLACE}: {base.chat_template} needs {', '.join(missing)}, which the model's tokenizer does not have",
                f"use {_or(_fitting(tokenizer))}",
            )
    end = _end_token(tokenizer, template)
    end_token = {"eos_token": tokenizer.convert_ids_to_tokens(end)}
    replace(folder, text)
    files.write_json(folder / _SETTINGS, _mapping(folder / _SETTINGS) | end_token)
    if (folder / _SPECIAL).exists():
        files.write_json(folder / _SPECIAL, _mapping(folder / _SPECIAL) | end_token)
    generation = folder / _GENERATION
    if generation.exists():
        kept = _mapping(generation)
        kept.pop(_DERIVED, None)
    else:
        config = _mapping(folder / _CONFIG)
        kept = {key: config[key] for key in _IDS if key in config}
    before = kept.get("eos_token_id")
    ends = [end, *(before if isinstance(before, list) else [before] if before is not None else [])]
    files.write_json(generation, kept | {"eos_token_id": list(dict.fromkeys(ends))})


def replace(folder: Path, text: bytes) -> None:
    """Write ``text`` as the only chat template of the model in ``folder``."""
    (folder / NAME).write_bytes(text)
    (folder / _OLD).unlink(missing_ok=True)
    settings = _mapping(folder / _SETTINGS)
    settings.pop("chat_template", None)
    files.write_json(folder / _SETTINGS, settings)


def digest_in(folder: Path) -> str | None:
    """Return the digest of the text of the template of the model in ``folder``; None if there is none."""
    if (folder / NAME).is_file():
        return digest.of_file(folder / NAME).sha256
    for name in (_SETTINGS, _OLD):
        template = _mapping(folder / name).get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next(
                (entry.get("template") for entry in template if entry.get("name") == "default"),
                None,
            )
        if isinstance(template, str):
            return digest.of_bytes(template.encode())
    return None


def tokenizer_in(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a damaged tokenizer fails anywhere in the readers
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SourceRefused(
            f"{layout.PARAMS}: base.uri: transformers cannot read the tokenizer: {what}",
            "export the model again",
        ) from error


def _end_token(tokenizer: Any, template: str) -> int:
    """Return the id of the token that ends an answer: the first one after its text."""
    whole = [*_QUESTION, {"role": "assistant", "content": _ANSWER}]
    prompt = _rendered(tokenizer, template, _QUESTION, True)
    _, answer, after = (
        _rendered(tokenizer, template, whole, False).removeprefix(prompt).rpartition(_ANSWER)
    )
    ids = tokenizer.encode(after.strip(), add_special_tokens=False)
    if not answer or not ids or ids[0] not in tokenizer.added_tokens_decoder:
        shown = repr(after.strip()[:40]) if answer else "no answer"
        raise SourceRefused(
            f"{_PLACE}: no token of the model ends an answer: the template writes {shown} there",
            f"end an assistant's turn in a special token that the tokenizer has, or use {_or(_fitting(tokenizer))}",
        )
    return int(ids[0])


def _rendered(tokenizer: Any, template: str, turns: list[dict[str, str]], start: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                turns, chat_template=template, add_generation_prompt=start, tokenize=False
            )
        )
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
    ) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SourceRefused(f"{_PLACE}: cannot be rendered: {what}", "fix the template") from error


def _fitting(tokenizer: Any) -> list[str]:
    """Return the named templates whose tokens the tokenizer has."""
    return [
        name
        for name, kind in TEMPLATES.kinds.items()
        if all(
            _is_one(tokenizer, token)
            for token in (*kind.tokens, *([] if kind.tokens else [tokenizer.eos_token]))
        )
    ]


def _is_one(tokenizer: Any, token: str | None) -> bool:
    return bool(token) and len(tokenizer.encode(token, add_special_tokens=False)) == 1


def _or(names: list[str]) -> str:
    return " or ".join([*names, "a file of your own"])


def _mapping(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file."""
    return (
        model_files.read(path, SourceRefused, f"{layout.PARAMS}: base.uri: ")
        if path.exists()
        else {}
    )
