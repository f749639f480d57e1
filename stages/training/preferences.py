"""Shared by the methods that learn from preferences: makes TRL's rows, and reads what TRL made of them."""

from collections.abc import Iterable, Sequence
from typing import Any

from checks.kinds.method import Job
from checks.records.rows import Row
from checks.training.preferences import COMPLETION, REJECTED
from stages.training.turns import Learned, conversation, dataset, tokens


def settings(job: Job) -> dict[str, Any]:
    """The settings of transformers with rows in a random order: such rows have no one length to group by."""
    return {**job.settings, "train_sampling_strategy": "random"}


def answer(row: Row, column: str) -> list[dict[str, Any]]:
    """The answer in a further column as TRL's conversation."""
    return [row.turn(str(row.extra[column])).model_dump()]


def pairs(rows: Sequence[Row]) -> Any:
    """Pairs as TRL's conversational prompt, chosen and rejected, and tools where a row has any: a Dataset."""
    values = [
        {
            "prompt": conversation(row),
            "chosen": [row.answer.model_dump()],
            "rejected": answer(row, REJECTED),
        }
        for row in rows
    ]
    return dataset(rows, values)


def learned_pairs(rows: Sequence[Row], prepared: Any) -> Iterable[Learned]:
    """The two answers of each row of a dataset that TRL tokenised; ``prepared`` has one row for each of ``rows``."""
    for row, tokens_of_row in zip(rows, prepared, strict=True):
        yield Learned(row, "reference", tokens_of_row["prompt_ids"], tokens_of_row["chosen_ids"])
        yield Learned(row, REJECTED, tokens_of_row["prompt_ids"], tokens_of_row["rejected_ids"])


def learned_answers(rows: Sequence[Row], prepared: Any) -> Iterable[Learned]:
    """The judged answer of each row, likewise."""
    for row, tokens_of_row in zip(rows, prepared, strict=True):
        yield Learned(row, COMPLETION, tokens_of_row["prompt_ids"], tokens_of_row["completion_ids"])


def prompt(job: Job, row: Row) -> list[int]:
    """The prompt's token ids at inference."""
    (ids,) = tokens(job.tokenizer, [conversation(row)], [row.schemas], True)
    return ids
