"""Direct preference optimisation (Rafailov et al., 2023) with TRL's DPOTrainer: parameters, columns, data and trainer.

A row is a pair: ``reference`` is the better answer, the column ``rejected`` the worse one. The loss compares how much
likelier the model makes each than the reference model does, which is the base with the adapter switched off: no second
model is loaded. ``rewards/...`` are these log-ratios times beta. Watch ``logps/chosen``: where it falls while the
margins rise, the model unlearns both answers.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.kinds.method import Job
from checks.records.sections import problems
from checks.training.preferences import Pairs

Loss = Literal["sigmoid", "ipo", "hinge", "apo_zero", "apo_down", "sft"]


class Dpo(Pairs):
    """Direct preference optimisation with LoRA, from pairs."""

    learns_calls = True
    reported = (
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
    )  # fmt: skip

    method: Literal["dpo"]
    beta: Annotated[
        float,
        Field(gt=0, description="how much is lost by leaving the base; ipo has another scale"),
    ]
    loss_type: Annotated[
        tuple[Loss, ...],
        Field(
            strict=False,
            min_length=1,
            description="losses that are added: sft is that of the better answer alone",
        ),
    ]
    loss_weights: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...] | None,
        Field(strict=False, description="one number for each loss; null: each counts once"),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from super().contradictions()
        losses, weights = self.loss_type, self.loss_weights or ()
        yield from problems(
            (
                len(set(losses)) < len(losses) or losses == ("sft",),
                f"loss_type is {', '.join(losses)}|name each loss once, and another one beside sft",
            ),
            (
                self.loss_weights is not None and len(weights) != len(losses),
                (
                    f"loss_weights has {len(weights)} numbers for {len(losses)} losses in loss_type|"
                    "write one number for each loss, or null"
                ),
            ),
        )

    def trainer(self, job: Job) -> Any:
        """TRL's trainer over pairs. Raises TrainingRefused for a row that cannot be learned."""
        from trl import DPOConfig, DPOTrainer

        from stages.training import turns
        from stages.training.trainer import steady
        from stages.training.turns import refuse_unfit

        trainer = steady(DPOTrainer)(
            model=job.model,
            args=DPOConfig(
                **turns.random_order(job),
                beta=self.beta,
                loss_type=list(self.loss_type),
                loss_weights=None if self.loss_weights is None else list(self.loss_weights),
                max_length=None,  # nothing is cut or left out: ``refuse_unfit`` sees every row
            ),
            train_dataset=turns.pairs(job.rows),
            eval_dataset=turns.pairs(job.valid) if job.valid else None,
            processing_class=job.tokenizer,
            peft_config=job.adapter,
            callbacks=list(job.callbacks),
        )
        refuse_unfit(job, trainer, job.rows, turns.learned_pairs, self.max_length)
        return trainer
