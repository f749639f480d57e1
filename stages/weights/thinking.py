"""Writes into a base whether it is asked to think, and by which marks its thoughts are told from its answers.

The mode becomes a line at the head of the chat template, so training, evaluation, probes and the server ask alike, and
no client of a server can ask otherwise. The marks are in thinking.json. The merged model has both files.
"""

from pathlib import Path
from typing import Any

from checks.formats.thinking import Thinking
from checks.process.errors import SourceRefused
from checks.storage import files, layout
from stages.weights import chat_template

# The variables by which templates are asked: of Qwen3, SmolLM3 and GLM, and of DeepSeek V3.1 and Granite.
_SWITCHES = ("enable_thinking", "thinking")
_PLACE = f"{layout.PARAMS}: base.thinking"
_CHAT = [
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "question"},
]


def give(folder: Path, thinking: Thinking) -> None:
    """Write the mode of ``thinking`` into the chat template of the model in ``folder``, and its marks beside it.

    Raises SourceRefused if the template cannot be asked so, or if the tokenizer drops the marks from answers.
    """
    tokenizer = chat_template.tokenizer_in(folder)
    for mark in thinking.marks:
        ids = tokenizer.encode(mark, add_special_tokens=False)
        if mark not in tokenizer.decode(ids, skip_special_tokens=True):
            raise SourceRefused(
                f"{_PLACE}.marks: {mark} is a special token of the model, which no answer shows",
                "use a base whose marks are ordinary tokens, or remove base.thinking",
            )
    text = tokenizer.get_chat_template()
    if thinking.mode != "mixed":
        text = _asked(tokenizer, text, thinking)
        chat_template.replace(folder, text.encode())
    opens = _rendered(tokenizer, text).rstrip().endswith(thinking.marks[0])
    if opens and thinking.mode != "always":
        raise SourceRefused(
            f"{_PLACE}.mode: {thinking.mode}, but the chat template begins every answer with {thinking.marks[0]}",
            "set it to always, or use a template that can ask for no thought",
        )
    files.write_json(folder / layout.THINKING, thinking)


def _asked(tokenizer: Any, text: str, thinking: Thinking) -> str:
    """Return the template that asks for thoughts always, or never, whatever a caller passes."""
    wanted = thinking.mode == "always"
    for name in _SWITCHES:
        on, off = (_rendered(tokenizer, text, **{name: value}) for value in (True, False))
        if on != off:
            return f"{{%- set {name} = {str(wanted).lower()} %}}{text}"
    if not wanted:
        raise SourceRefused(
            f"{_PLACE}.mode: never, but the chat template reads neither {' nor '.join(_SWITCHES)}",
            "set it to mixed, or use a template that can ask for no thought",
        )
    return text


def _rendered(tokenizer: Any, text: str, **switch: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            _CHAT, chat_template=text, add_generation_prompt=True, tokenize=False, **switch
        )
    )
