"""Thoughts in training: which of them are learned, and how answers are learned whose template drops earlier thoughts.

A template such as Qwen3's shows the thought of the last answer alone. So with ``base.thinking`` each answer of a chat
is a row of its own. Its prompt is the chat up to it, as the template renders it there, without earlier thoughts: so the
model will be asked for it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from checks.formats.thinking import Thinking, answer_in
from checks.process.errors import TrainingRefused
from checks.records.rows import Row
from checks.training.preferences import address


def each_answer(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield a row for each answer of each row's chat, in order. The last one is the row itself."""
    for row in rows:
        answers = [
            place for place, message in enumerate(row.messages) if message.role == "assistant"
        ]
        for number, place in enumerate(answers, 1):
            if place:  # An answer to nothing is not asked for.
                message = row.messages[place]
                yield row.model_copy(
                    update={
                        "id": f"{row.id}.{number}",
                        "messages": row.messages[:place],
                        "reference": message.text,
                        "calls": message.tool_calls,
                    }
                )
        yield row


def without(rows: Sequence[Row], thinking: Thinking) -> list[Row]:
    """Return the rows with references that have no thought."""
    return [
        row.model_copy(update={"reference": answer_in(row.reference, thinking)}) for row in rows
    ]


def refuse_unasked(rows: Sequence[Row], thinking: Thinking) -> None:
    """Raise TrainingRefused with the first row whose reference has a thought, where the model is never to think."""
    for row in rows:
        if thinking.mode == "never" and thinking.marks[1] in row.reference:
            raise TrainingRefused(
                f"{address(row)}: its reference has a thought, and base.thinking.mode is never",
                "set train.thoughts to drop",
            )


def mask(prepared: Any, tokenizer: Any, closing: str) -> Any:
    """Return prepared rows without labels from the beginning of an answer to the mark that closes its thought."""

    def masked(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"labels": [_masked(labels, tokenizer, closing) for labels in batch["labels"]]}

    return prepared.map(masked, batched=True)


def _masked(labels: Sequence[int], tokenizer: Any, closing: str) -> list[int]:
    start = next((place for place, label in enumerate(labels) if label != -100), len(labels))
    answer = list(labels[start:])
    if closing not in tokenizer.decode(answer):
        return list(labels)
    low, high = 1, len(answer)
    while low < high:  # the fewest tokens that have the whole mark
        middle = (low + high) // 2
        enough = closing in tokenizer.decode(answer[:middle])
        low, high = (low, middle) if enough else (middle + 1, high)
    return [*labels[:start], *[-100] * low, *answer[low:]]
