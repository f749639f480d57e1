"""Kahneman-Tversky optimisation (Ethayarajh et al., 2024) with TRL's KTOTrainer: parameters, columns, data and trainer.

A row is a prompt, an answer in the column ``completion`` and whether somebody liked it in the column ``label``; no
answer has a counterpart. ``reference`` is the right answer, which evaluation asks for and training does not read. The
reference model is the base with the adapter switched off. ``kl`` is the estimate of how far the model has left it.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.kinds.method import Job
from checks.records.rows import Row
from checks.records.sections import problems
from checks.training.preferences import COMPLETION, LABEL, Judged, liked


class Kto(Judged):
    """Kahneman-Tversky optimisation with LoRA, from answers that somebody liked or not."""

    learns_calls = True
    reported = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
        "kl",
    )

    method: Literal["kto"]
    beta: Annotated[float, Field(gt=0, description="how much is lost by leaving the base")]
    desirable_weight: Annotated[float, Field(gt=0, description="of answers whose label is true")]
    undesirable_weight: Annotated[
        float,
        Field(
            gt=0,
            description="of answers whose label is false; weight times rows should be about that of the others",
        ),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from super().contradictions()
        yield from problems(
            (
                self.batch_size < 2,
                (
                    "batch_size is 1, and train.method 'kto' compares each answer with another one of its batch|"
                    "set train.batch_size to 2 or more"
                ),
            )
        )

    def trainer(self, job: Job) -> Any:
        """TRL's trainer over judged answers. Raises TrainingRefused for a row that cannot be learned."""
        from trl import KTOConfig, KTOTrainer

        from stages.training import turns
        from stages.training.trainer import steady
        from stages.training.turns import refuse_unfit

        # TRL pairs each answer with its neighbour's prompt beforehand, so the order of the rows is fixed here.
        rows = random.Random(self.seed).sample(job.rows, len(job.rows))  # noqa: S311 - an order, no secret
        trainer = steady(KTOTrainer)(
            model=job.model,
            args=KTOConfig(
                **{**job.settings, "train_sampling_strategy": "sequential"},
                beta=self.beta,
                desirable_weight=self.desirable_weight,
                undesirable_weight=self.undesirable_weight,
                max_length=None,  # nothing is cut or left out: ``refuse_unfit`` sees every row
            ),
            train_dataset=dataset(rows),
            eval_dataset=dataset(job.valid) if job.valid else None,
            processing_class=job.tokenizer,
            peft_config=job.adapter,
            callbacks=list(job.callbacks),
        )
        refuse_unfit(job, trainer, rows, turns.learned_answers, self.max_length)
        return trainer


def dataset(rows: Sequence[Row]) -> Any:
    """Rows as TRL's conversational prompt, completion and label, and tools where a row has any: a Dataset."""
    from stages.training import turns

    values = [
        {
            "prompt": turns.conversation(row),
            "completion": turns.further_answer(row, COMPLETION),
            "label": liked(row.extra[LABEL]),
        }
        for row in rows
    ]
    return turns.dataset(rows, values)
