"""Shared by the methods that learn from preferences: makes TRL's rows, and looks at what TRL made of them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from checks.kinds.method import Job
from checks.process.errors import TrainingRefused
from checks.records.rows import Row
from checks.training.preferences import COMPLETION, REJECTED, address
from stages.training.turns import after_stop, dataset, refuse_unended, tokens


class Learned(NamedTuple):
    """One answer as the trainer will see it: token ids of the prompt and of the answer. ``name``: its column."""

    row: Row
    name: str
    prompt: Sequence[int]
    answer: Sequence[int]


def settings(job: Job) -> dict[str, Any]:
    """The settings of transformers with rows in a random order: such rows have no one length to group by."""
    return {**job.settings, "train_sampling_strategy": "random"}


def turns(row: Row) -> list[dict[str, Any]]:
    """The prompt as TRL's conversation."""
    return [message.model_dump() for message in row.messages]


def answer(row: Row, column: str) -> list[dict[str, Any]]:
    """The answer in a further column as TRL's conversation."""
    return [row.turn(str(row.extra[column])).model_dump()]


def pairs(rows: Sequence[Row]) -> Any:
    """Pairs as TRL's conversational prompt, chosen and rejected, and tools where a row has any: a Dataset."""
    values = [
        {
            "prompt": turns(row),
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


def refuse_unfit(job: Job, learned: Iterable[Learned], max_length: int) -> None:
    """Refuse answers that would be cut, follow another prompt than at inference, or have not one end, at their end.

    Raises TrainingRefused with the first such row.
    """
    after = after_stop(job.tokenizer, job.stops)
    for answer in learned:
        at = f"{address(answer.row)}: {answer.name}"
        tokens = len(answer.prompt) + len(answer.answer)
        if tokens > max_length:
            raise TrainingRefused(
                f"{at}: {tokens} tokens with its prompt, above train.max_length {max_length}",
                "raise train.max_length, or lower validate.max_prompt_tokens and validate.max_reference_tokens so that "
                "validate finds such rows",
            )
        if list(answer.prompt) != prompt(job, answer.row):
            raise TrainingRefused(
                f"{at}: the chat template renders the prompt otherwise when the answer follows",
                "use a template that renders the prompt alike with and without its answer",
            )
        refuse_unended(at, answer.answer, job.stops, after)


def prompt(job: Job, row: Row) -> list[int]:
    """The prompt's token ids at inference."""
    (ids,) = tokens(job.tokenizer, [turns(row)], [row.schemas], True)
    return ids
