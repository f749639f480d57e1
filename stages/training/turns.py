"""Loss on every turn of the assistant in a chat, not on the last one alone: TRL's ``assistant_only_loss``.

TRL finds these turns by ``{% generation %}`` in the chat template, which few models have. Here each answer is found by
rendering the chat twice more: up to where the answer begins, as a server asks for it, and up to where it ends. So what
is learned are the tokens that the model is to generate there, end of turn included. A template that renders an answer
otherwise once other turns follow, as Qwen3's does, is refused.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from checks.kinds.method import Job
from checks.process.errors import TrainingRefused
from checks.records.rows import Row
from checks.training.preferences import COMPLETION, REJECTED, address


class Learned(NamedTuple):
    """One answer as the trainer will see it: token ids of the prompt and of the answer. ``name``: its column."""

    row: Row
    name: str
    prompt: Sequence[int]
    answer: Sequence[int]


def conversation(row: Row) -> list[dict[str, Any]]:
    """The prompt as TRL's conversation."""
    return [message.model_dump() for message in row.messages]


def dataset(rows: Sequence[Row], values: Sequence[dict[str, Any]]) -> Any:
    """The ``values`` of each row as a Dataset of the library datasets. A list among them is of turns.

    With calls, turns are kept as JSON, and tools as its text: Arrow would give each call the arguments of all others.
    """
    from datasets import Dataset, Features, Json, List, Value

    if not any(row.has_calls for row in rows):
        return Dataset.from_list(list(values))
    known = [
        value | {"tools": json.dumps(row.schemas)} for row, value in zip(rows, values, strict=True)
    ]
    kinds = {list: List(Json()), str: Value("string"), bool: Value("bool")}
    return Dataset.from_list(
        known, features=Features({name: kinds[type(value)] for name, value in known[0].items()})
    )


def learned_rows(rows: Sequence[Row], prepared: Any) -> Iterator[Learned]:
    """The answer of each row of a dataset that SFTTrainer tokenised; labels are -100 at the tokens of the prompt."""
    for row, tokens_of_row in zip(rows, prepared, strict=True):
        ids = tokens_of_row["input_ids"]
        start = tokens_of_row["labels"].count(-100)
        yield Learned(row, "reference", ids[:start], ids[start:])


def has_earlier_answers(rows: Sequence[Row]) -> bool:
    """Whether the assistant speaks in the prompt of some row."""
    return any(message.role == "assistant" for row in rows for message in row.messages)


def learn_all(prepared: Any, tokenizer: Any, stops: frozenset[int]) -> Any:
    """The prepared rows with labels at every answer.

    ``prepared`` is a Dataset with ``id``, ``prompt``, ``input_ids`` and ``labels``, which are -100 up to the last
    answer; ``stops`` are the token ids that end a turn. Raises TrainingRefused with the first row of which the template
    renders an earlier answer otherwise, or whose earlier answer has another end than one at its end.
    """
    return prepared.map(lambda batch: {"labels": _labels(batch, tokenizer, stops)}, batched=True)


def after_stop(tokenizer: Any, stops: frozenset[int]) -> list[int]:
    """The token ids that the chat template writes after the token that ends an answer, such as a line break."""
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (begin,) = tokens(tokenizer, [chat[:1]], [None], True)
    (whole,) = tokens(tokenizer, [chat], [None], False)
    answer = whole[len(begin) :]
    return next((answer[place + 1 :] for place, token in enumerate(answer) if token in stops), [])


def refuse_unfit(
    job: Job,
    trainer: Any,
    rows: Sequence[Row],
    learned: Callable[[Sequence[Row], Any], Iterable[Learned]],
    max_length: int,
) -> None:
    """Refuse answers that would be cut, follow another prompt than at inference, or have not one end, at their end.

    ``learned`` reads the answers from the datasets that TRL tokenised; ``rows`` are those of training in their order.
    Raises TrainingRefused with the first such row.
    """
    datasets = ((rows, trainer.train_dataset), (job.valid, trainer.eval_dataset))
    answers = [
        answer
        for of_split, prepared in datasets
        if prepared is not None
        for answer in learned(of_split, prepared)
    ]
    asked = [conversation(answer.row) for answer in answers]
    prompts = tokens(job.tokenizer, asked, [answer.row.schemas for answer in answers], True)
    after = after_stop(job.tokenizer, job.stops)
    for answer, prompt in zip(answers, prompts, strict=True):
        at = f"{address(answer.row)}: {answer.name}"
        length = len(answer.prompt) + len(answer.answer)
        if length > max_length:
            raise TrainingRefused(
                f"{at}: {length} tokens with its prompt, above train.max_length {max_length}",
                "raise train.max_length, or lower validate.max_prompt_tokens and validate.max_reference_tokens so that "
                "validate finds such rows",
            )
        if list(answer.prompt) != prompt:
            raise TrainingRefused(
                f"{at}: the chat template renders the prompt otherwise when the answer follows",
                "use a template that renders the prompt alike with and without its answer",
            )
        refuse_unended(at, answer.answer, job.stops, after)


def refuse_unended(
    at: str, answer: Sequence[int], stops: frozenset[int], after: Sequence[int]
) -> None:
    """Refuse an answer without exactly one end, at its end. Raises TrainingRefused.

    ``at`` names row and answer. ``answer``: the token ids that are learned. ``after``: ``after_stop`` of the template.
    """
    stop = next((place for place, token in enumerate(answer) if token in stops), None)
    if stop is None:
        raise TrainingRefused(
            f"{at}: no end of turn is learned, so the model would not stop",
            "fix the chat template or eos_token_id of the base, so that an assistant's turn ends in an end token",
        )
    rest = list(answer[stop + 1 :])
    if rest != list(after[: len(rest)]):
        raise TrainingRefused(
            f"{at}: the answer has an end token at token {stop + 1} of {len(answer)}, and the model would stop there",
            "add drop-control-tokens to prepare.rules, or write the token otherwise in the data source",
        )


def _labels(batch: dict[str, list[Any]], tokenizer: Any, stops: frozenset[int]) -> list[list[int]]:
    places = [
        (row, turn)
        for row, prompt in enumerate(batch["prompt"])
        for turn, message in enumerate(prompt)
        if message["role"] == "assistant"
    ]
    of_rows = (
        [json.loads(tools_of_row) for tools_of_row in batch["tools"]]
        if "tools" in batch
        else [None] * len(batch["prompt"])
    )
    tools = [of_rows[row] for row, _ in places]
    begins = tokens(tokenizer, [batch["prompt"][row][:turn] for row, turn in places], tools, True)
    ends = tokens(
        tokenizer, [batch["prompt"][row][: turn + 1] for row, turn in places], tools, False
    )
    after = after_stop(tokenizer, stops)
    labels = [list(labels_of_row) for labels_of_row in batch["labels"]]
    for (row, turn), begin, end in zip(places, begins, ends, strict=True):
        ids = batch["input_ids"][row]
        # What follows the end of turn may differ: the end of the chat, or white space that is one token with the next.
        stop = min(
            (place for place in range(len(begin), len(end)) if end[place] in stops),
            default=len(end),
        )
        same = next(
            (place for place, (a, b) in enumerate(zip(ids, end, strict=False)) if a != b), len(end)
        )
        number = sum(message["role"] == "assistant" for message in batch["prompt"][row][: turn + 1])
        if same <= stop or end[: len(begin)] != begin:
            raise TrainingRefused(
                f"row {batch['id'][row]}: the chat template renders answer {number} otherwise once other turns follow, "
                "so it cannot be learned as the model is asked for it",
                "set train.loss_turns to last, write base.thinking if it drops thoughts, or use a template that "
                "renders every turn alike",
            )
        refuse_unended(
            f"row {batch['id'][row]}: answer {number}", ids[len(begin) : same], stops, after
        )
        labels[row][len(begin) : same] = ids[len(begin) : same]
    return labels


def tokens(tokenizer: Any, chats: list[Any], tools: list[Any], ask: bool) -> list[list[int]]:
    """Token ids of each chat with its tools; ``ask``: up to where the next answer begins."""
    if any(tools):  # transformers takes one list of tools for all chats
        return [
            tokenizer.apply_chat_template(
                chat, tools=known, add_generation_prompt=ask, return_dict=False
            )
            for chat, known in zip(chats, tools, strict=True)
        ]
    if not chats:
        return []
    ids: list[list[int]] = tokenizer.apply_chat_template(
        chats, add_generation_prompt=ask, return_dict=False
    )
    return ids


def random_order(job: Job) -> dict[str, Any]:
    """Return the settings of transformers with rows in random order: pairs have no single length to group by."""
    return {**job.settings, "train_sampling_strategy": "random"}


def further_answer(row: Row, column: str) -> list[dict[str, Any]]:
    """Return the answer in a further column as TRL's conversation."""
    return [row.turn(str(row.extra[column])).model_dump()]


def pairs(rows: Sequence[Row]) -> Any:
    """Return TRL's Dataset of pairs: prompt, chosen and rejected as conversations, and tools where a row has any."""
    values = [
        {
            "prompt": conversation(row),
            "chosen": [row.answer.model_dump()],
            "rejected": further_answer(row, REJECTED),
        }
        for row in rows
    ]
    return dataset(rows, values)


def learned_pairs(rows: Sequence[Row], prepared: Any) -> Iterable[Learned]:
    """Yield the two answers of each row as TRL tokenised them; ``prepared`` has one row for each of ``rows``."""
    for row, tokens_of_row in zip(rows, prepared, strict=True):
        yield Learned(row, "reference", tokens_of_row["prompt_ids"], tokens_of_row["chosen_ids"])
        yield Learned(row, REJECTED, tokens_of_row["prompt_ids"], tokens_of_row["rejected_ids"])


def learned_answers(rows: Sequence[Row], prepared: Any) -> Iterable[Learned]:
    """Yield the judged answer of each row as TRL tokenised it; ``prepared`` has one row for each of ``rows``."""
    for row, tokens_of_row in zip(rows, prepared, strict=True):
        yield Learned(row, COMPLETION, tokens_of_row["prompt_ids"], tokens_of_row["completion_ids"])


def prompt_tokens(job: Job, row: Row) -> list[int]:
    """Return the token ids of the prompt at inference."""
    (ids,) = tokens(job.tokenizer, [conversation(row)], [row.schemas], True)
    return ids
