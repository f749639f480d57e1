"""Supervised fine-tuning with TRL and PEFT: parameters, columns, data and trainer.

The loss is the mean negative log-likelihood of the answers' tokens, end of turn included; other tokens have no loss.
In a chat of several turns every answer has one, or the last one alone: ``loss_turns``. With ``base.thinking`` each of
these answers is a row of its own, and ``thoughts`` says what is learned of its thought.
The weights that learn are float32: LoRA's, or with ``full`` the base's own. All others are frozen, in the precision of
training.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.kinds.method import Job, Train
from checks.records.rows import Row


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
        from stages.training import thoughts
        from stages.training.trainer import log_every

        if job.thinking is None:
            return job
        splits = [job.rows, job.valid]
        if self.loss_turns == "all":
            splits = [list(thoughts.each_answer(rows)) for rows in splits]
        if self.thoughts == "drop":
            splits = [thoughts.without(rows, job.thinking) for rows in splits]
        for rows in splits:
            thoughts.refuse_unasked(rows, job.thinking)
        logging = {"logging_steps": log_every(self, len(splits[0]))}
        return replace(job, rows=splits[0], valid=splits[1], settings={**job.settings, **logging})

    def _mask_thoughts(self, trainer: Any, job: Job, closing: str) -> None:
        from stages.training import thoughts

        trainer.train_dataset = thoughts.mask(trainer.train_dataset, job.tokenizer, closing)
        if job.valid:
            trainer.eval_dataset = thoughts.mask(trainer.eval_dataset, job.tokenizer, closing)

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
