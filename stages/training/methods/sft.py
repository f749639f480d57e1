"""Supervised fine-tuning with TRL and PEFT: parameters, columns, data and trainer.

The loss is the mean negative log-likelihood of the answers' tokens, end of turn included; other tokens have no loss.
In a chat of several turns every answer has one, or the last one alone: ``loss_turns``. With ``base.thinking`` each of
these answers is a row of its own, and ``thoughts`` says what is learned of its thought.
The weights that learn are float32: LoRA's, or with ``full`` the base's own. All others are frozen, in the precision of
training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.formats.thinking import Thinking, answer_in
from checks.kinds.method import Job, Train
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


def refuse_unasked_thoughts(rows: Sequence[Row], thinking: Thinking) -> None:
    """Raise TrainingRefused with the first row whose reference has a thought, where the model is never to think."""
    for row in rows:
        if thinking.mode == "never" and thinking.marks[1] in row.reference:
            raise TrainingRefused(
                f"{address(row)}: its reference has a thought, and base.thinking.mode is never",
                "set train.thoughts to drop",
            )


def mask_thoughts(prepared: Any, tokenizer: Any, closing: str) -> Any:
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
    while low < high:  # This searches the fewest tokens that have the whole mark.
        middle = (low + high) // 2
        enough = closing in tokenizer.decode(answer[:middle])
        low, high = (low, middle) if enough else (middle + 1, high)
    return [*labels[:start], *[-100] * low, *answer[low:]]


class Sft(Train):
    """Supervised fine-tuning, with LoRA or of the base's own weights."""

    columns = ("prompt", "reference")
    learns_calls = True
    without_adapter = True
    packable = True

    method: Literal["sft"] = "sft"
    loss_turns: Annotated[
        Literal["all", "last"],
        Field(
            description="which answers of a chat are learned: all (TRL's assistant_only_loss), or the last one"
        ),
    ] = "all"
    thoughts: Annotated[
        Literal["learn", "mask", "drop"],
        Field(
            description="with base.thinking, thoughts in references: learn; mask: read them, and learn the answers; "
            "drop: leave them out"
        ),
    ] = "learn"

    def trainer(self, job: Job) -> Any:
        """TRL's trainer over prompts and references. Raises TrainingRefused for a row that cannot be learned."""
        from trl import SFTConfig

        from stages.training import turns
        from stages.training.answers import trainer_class

        job = self._taught(job)
        # Packed sequences have no padding: no length to group by, and no token that does not count.
        packed = (
            {"train_sampling_strategy": "random", "include_num_input_tokens_seen": "all"}
            if self.packing
            else {}
        )
        trainer = trainer_class()(
            model=job.model,
            args=SFTConfig(
                **{**job.settings, **packed},
                max_length=None,  # nothing is cut: ``refuse_unfit`` sees every row
                packing=False,  # afterwards, below
                completion_only_loss=True,
            ),
            train_dataset=dataset(job.rows),
            eval_dataset=dataset(job.valid) if job.valid else None,
            processing_class=job.tokenizer,
            peft_config=job.adapter,
            callbacks=list(job.callbacks),
        )
        turns.refuse_unfit(job, trainer, job.rows, turns.learned_rows, self.max_length)
        if job.thinking is None:
            self._learn_earlier_answers(trainer, job)
        elif self.thoughts == "mask":
            self._mask_thoughts(trainer, job, job.thinking.marks[1])
        if self.packing:
            from stages.training import packing

            packing.pack(trainer, self)
        return trainer

    def _taught(self, job: Job) -> Job:
        """Return the job with the rows that are learned: of a base that thinks, one for each answer."""
        from stages.training.trainer import log_every

        if job.thinking is None:
            return job
        splits = [job.rows, job.valid]
        if self.loss_turns == "all":
            splits = [list(each_answer(rows)) for rows in splits]
        if self.thoughts == "drop":
            splits = [
                [
                    row.model_copy(update={"reference": answer_in(row.reference, job.thinking)})
                    for row in rows
                ]
                for rows in splits
            ]
        for rows in splits:
            refuse_unasked_thoughts(rows, job.thinking)
        logging = {"logging_steps": log_every(self, len(splits[0]))}
        return replace(job, rows=splits[0], valid=splits[1], settings={**job.settings, **logging})

    def _mask_thoughts(self, trainer: Any, job: Job, closing: str) -> None:

        trainer.train_dataset = mask_thoughts(trainer.train_dataset, job.tokenizer, closing)
        if job.valid:
            trainer.eval_dataset = mask_thoughts(trainer.eval_dataset, job.tokenizer, closing)

    def _learn_earlier_answers(self, trainer: Any, job: Job) -> None:
        from stages.training import turns

        if self.loss_turns == "last":
            return
        if turns.has_earlier_answers(job.rows):
            trainer.train_dataset = turns.learn_all(trainer.train_dataset, job.tokenizer, job.stops)
        if turns.has_earlier_answers(job.valid):
            trainer.eval_dataset = turns.learn_all(trainer.eval_dataset, job.tokenizer, job.stops)


def dataset(rows: Sequence[Row]) -> Any:
    """Rows as TRL's conversational prompt and completion, and tools where a row has any: a Dataset."""
    from stages.training import turns

    values = [
        {
            "id": row.id,
            "prompt": turns.conversation(row),
            "completion": [row.answer.model_dump()],
        }
        for row in rows
    ]
    return turns.dataset(rows, values)
