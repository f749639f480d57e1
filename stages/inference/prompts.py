"""How each model is asked: rows to messages, messages to tokens through the chat template.

The candidate gets a row's messages as they are. The untuned base is told what the candidate learnt from
training, so that the comparison is fair: the list of labels in its system message, and worked examples. Where system
messages differ from row to row and there are examples, each stands at the head of its row's question instead: an
example without its own would show only half of the task, and the examples, with which all prompts begin, are read once.

In:  rows of the splits, a tokenizer, ``evaluate.base_prompt``.
Out: token ids per row.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checks.config.pipeline_params import BasePrompt
from checks.process.errors import EvaluationRefused
from checks.records.rows import Message, Row

# More answers than this are not a closed set: they neither fit a prompt nor a confusion matrix.
MAX_LABELS = 50


def labels(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the sorted answers of a task with a closed set of them, given those of train; empty for free text.

    Closed: at most MAX_LABELS distinct answers, two rows each on average.
    """
    names = {answer.strip() for answer in answers}
    return tuple(sorted(names)) if len(names) <= min(MAX_LABELS, len(answers) / 2) else ()


def for_base(
    rows: Sequence[Row], train: Sequence[Row], settings: BasePrompt
) -> list[tuple[Message, ...]]:
    """Return each row's messages with the list of labels and the examples that ``settings`` asks for.

    Raises EvaluationRefused when the labels are asked for and the answers are no closed set, when train has fewer rows
    than examples are asked for, or when examples are asked for of rows with different tools.
    """
    instruction = ""
    if settings.labels:
        names = labels([row.reference for row in train])
        if not names:
            distinct = len({row.reference.strip() for row in train})
            raise EvaluationRefused(
                f"evaluate.base_prompt.labels: {distinct} distinct answers in {len(train)} rows of train are no list "
                f"of labels (at most {MAX_LABELS}, two rows each)",
                "set it to false",
            )
        instruction = f"Answer with one of these labels and nothing else: {', '.join(names)}."
    if settings.shots > len(train):
        raise EvaluationRefused(
            f"evaluate.base_prompt.shots: {settings.shots} examples, and train has {len(train)} rows",
            "ask for fewer",
        )
    shots = examples(train, settings.shots)
    if shots and any(row.tools != shots[0].tools for row in (*rows, *shots)):
        raise EvaluationRefused(
            f"evaluate.base_prompt.shots: {settings.shots} examples, and a prompt has one list of tools, but rows have "
            "different ones",
            "set it to 0",
        )
    if shots and len({_system(row) for row in (*rows, *shots)}) > 1:
        shown = tuple(turn for row in shots for turn in (*_in_question(row), row.answer))
        return [_with(_in_question(row), instruction, shown) for row in rows]
    shown = tuple(turn for row in shots for turn in (*_talk(row), row.answer))
    return [_with(row.messages, instruction, shown) for row in rows]


def examples(train: Sequence[Row], count: int) -> list[Row]:
    """``count`` rows, as many different answers as there are; by id, so the same from any order of train."""
    seen: Counter[str] = Counter()
    ranked = []
    for row in sorted(train, key=lambda row: row.id):
        ranked.append((seen[row.reference], row.id, row))
        seen[row.reference] += 1
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])[:count]]


def tokens(
    tokenizer: Any,
    conversations: Sequence[Sequence[Message]],
    rows: Sequence[Row],
    room: int | None,
    rows_name: Path,
) -> list[list[int]]:
    """Return each conversation through the chat template, up to where the answer starts.

    ``rows`` and ``rows_name`` name a row in a refusal. ``room``: tokens that a prompt may have, None for any number.
    Raises EvaluationRefused when there is no template, when it refuses the turns, or when a prompt has no room.
    """
    if tokenizer.chat_template is None:
        raise EvaluationRefused(
            f"{rows_name}: the model has no chat template", "set base.uri to an Instruct model"
        )
    encoded = []
    for number, (row, messages) in enumerate(zip(rows, conversations, strict=True), 1):
        turns = [message.model_dump() for message in messages]
        try:
            ids = tokenizer.apply_chat_template(
                turns,
                tools=row.schemas,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except Exception as error:
            if type(error).__module__.split(".")[0] != "jinja2":
                raise
            raise EvaluationRefused(
                f"{rows_name}:{number}: row {row.id}: the chat template refuses it: {error}",
                "change the turns, or take a base whose template knows these roles",
            ) from error
        if room is not None and len(ids) > room:
            raise EvaluationRefused(
                f"{rows_name}:{number}: row {row.id}: a prompt of {len(ids)} tokens is too long for the model, which "
                f"has room for {room} before the answer",
                "lower validate.max_prompt_tokens, evaluate.max_new_tokens or evaluate.base_prompt.shots",
            )
        encoded.append(list(ids))
    return encoded


def end_tokens(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Return the token ids that end an answer: the generation config's and the tokenizer's."""
    configured = generation_config.eos_token_id
    several = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)


def _system(row: Row) -> str:
    return "\n".join(message.content for message in row.messages if message.role == "system")


def _talk(row: Row) -> tuple[Message, ...]:
    return tuple(message for message in row.messages if message.role != "system")


def _in_question(row: Row) -> tuple[Message, ...]:
    """Return the row's turns without a system message: the first question begins with its text."""
    question, *rest = _talk(row)
    text = "\n".join(part for part in (_system(row), question.content) if part)
    return (question.model_copy(update={"content": text}), *rest)


def _with(
    messages: tuple[Message, ...], instruction: str, shown: tuple[Message, ...]
) -> tuple[Message, ...]:
    system = "\n".join(
        part for part in (*(m.content for m in messages if m.role == "system"), instruction) if part
    )
    head = (Message(role="system", content=system),) if system else ()
    return (*head, *shown, *(m for m in messages if m.role != "system"))
