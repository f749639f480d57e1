"""Odds-ratio preference optimisation (Hong et al., 2024) with ``trl.experimental``'s ORPOTrainer.

**Experimental**: a minor release of TRL may change or remove this trainer. ``dpo`` with the losses sigmoid and sft does
much the same with a trainer that TRL keeps stable.

A row is a pair, as for ``dpo``. The loss is that of supervised fine-tuning on the better answer, and beta times the
odds ratio of the two answers; there is no reference model. TRL adds an end token after a template that ends a turn with
a line break, where ``sft`` and ``dpo`` learn the template's own end alone.
"""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.rows import Row
from checks.training.interface import Job
from checks.training.preferences import REJECTED, Pairs

_UNCUT = 1 << 30  # tokens; without a length TRL takes 512


class Orpo(Pairs):
    """Odds-ratio preference optimisation with LoRA, from pairs; experimental in TRL."""

    reported = (
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
        "nll_loss", "log_odds_ratio",
    )  # fmt: skip

    method: Literal["orpo"]
    beta: Annotated[float, Field(gt=0, description="weight of the odds ratio; lambda in the paper")]

    def trainer(self, job: Job) -> Any:
        """TRL's trainer over pairs. Raises TrainingRefused for a row that cannot be learned."""
        from stages.training import preferences

        made, config = trainer_class()
        trainer = made(
            model=job.model,
            args=config(
                **preferences.settings(job),
                beta=self.beta,
                max_length=_UNCUT,  # nothing is cut: ``refuse_unfit`` sees every row
                remove_unused_columns=False,
            ),
            train_dataset=preferences.pairs(job.rows),
            eval_dataset=preferences.pairs(job.valid) if job.valid else None,
            processing_class=job.tokenizer,
            peft_config=job.adapter,
            callbacks=list(job.callbacks),
        )
        for rows, prepared in ((job.rows, trainer.train_dataset), (job.valid, trainer.eval_dataset)):
            if prepared is not None:
                added = (job.tokenizer.eos_token_id,)
                preferences.refuse_unfit(job, _learned(rows, prepared), self.max_length, added)
        return trainer


def _learned(rows: Sequence[Row], prepared: Any) -> Iterable[Any]:
    """The two answers of each row as ORPO tokenised them; their labels are -100 where nothing is learned."""
    from stages.training.preferences import Learned

    for row, each in zip(rows, prepared, strict=True):
        for name, column in (("reference", "chosen"), (REJECTED, "rejected")):
            ids, labels = each[f"{column}_input_ids"], each[f"{column}_labels"]
            start = labels.count(-100)
            yield Learned(row, name, ids[:start], ids[start:])


@cache
def trainer_class() -> tuple[Any, Any]:
    """The classes of the trainer and of its arguments, made when torch is needed."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # the documentation says that it is experimental
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from stages.training.trainer import Steady

    class Trainer(Steady, ORPOTrainer):
        """ORPOTrainer that is steady."""

    return Trainer, ORPOConfig
