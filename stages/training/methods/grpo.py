"""Group relative policy optimisation (Shao et al., 2024) with TRL's GRPOTrainer: parameters, data and trainer.

The model answers each prompt ``num_generations`` times, and learns from those answers that score above the mean of
their group. The score is that of one of our own scorers against ``reference``: one definition for training and for
evaluation. So a gate that asks this scorer asks what training raised, and ``reports/train.json`` says so in
``optimised_for``. Where all answers of a group score alike nothing is learned (``frac_reward_zero_std``), so a base
that never scores has nothing to start from.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.evaluation import scoring
from checks.formats.thinking import Thinking, answer_in
from checks.kinds.method import Failure, Job, NoDropout
from checks.kinds.scorer import Scorer, ScorerKind
from checks.process.errors import TrainingRefused
from checks.records.rows import Row
from checks.records.sections import problems
from checks.training.preferences import address


class Grpo(NoDropout):
    """Group relative policy optimisation with LoRA; the reward is a scorer's score."""

    reported = (
        "reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio",
        "entropy", "kl",
    )  # fmt: skip

    unshardable = "answers end at different tokens on each device, and a divided base needs all devices at each token"

    method: Literal["grpo"]
    reward: Annotated[
        Scorer, Field(description="the scorer whose score of an answer is its reward")
    ]
    num_generations: Annotated[
        int, Field(ge=2, description="answers to a prompt; batch_size is a multiple of it")
    ]
    max_completion_length: Annotated[
        int, Field(ge=1, description="tokens of an answer, its end included")
    ]
    temperature: Annotated[float, Field(gt=0, description="of the answers that are drawn")]
    beta: Annotated[
        float, Field(ge=0, description="how much is lost by leaving the base; 0: nothing")
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from super().contradictions()
        size, group = self.batch_size, self.num_generations
        yield from problems(
            (
                size % group,
                (
                    f"batch_size {size} is no multiple of num_generations {group}, the answers of a group|"
                    f"set train.batch_size to {group * (1 + size // group)}"
                ),
            )
        )

    def failure(self, points: Sequence[Mapping[str, float]]) -> tuple[Failure, str] | None:
        """No reward, where the answers to each prompt were rewarded alike. The loss is about 0, and tells nothing."""
        if any(point.get("frac_reward_zero_std", 0.0) < 1 for point in points):
            return None
        low, high = (choose(point["reward"] for point in points) for choose in (min, max))
        reward = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        alike = f"all answers to a prompt had the same reward in every step ({reward})"
        return "no-reward", f"{alike}: nothing was learned"

    def rewards(self) -> tuple[ScorerKind, ...]:
        """The one scorer."""
        return (self.reward,)

    @property
    def prompts_of_step(self) -> int:
        """Prompts that one optimiser step sees."""
        return self.devices * self.batch_size * self.gradient_accumulation // self.num_generations

    def steps_of_epoch(self, rows: int) -> int:
        """Optimiser steps of one pass over the rows; prompts that fill no step are left out of it."""
        return max(1, rows // self.prompts_of_step)

    def refuse_rows(self, rows: Sequence[Row], valid: Sequence[Row]) -> None:
        """Raise TrainingRefused when the training rows do not fill one step."""
        if len(rows) < self.prompts_of_step:
            raise TrainingRefused(
                f"{len(rows)} training rows, and a step takes {self.prompts_of_step} prompts",
                "lower train.batch_size or train.gradient_accumulation, or raise train.num_generations",
            )

    def trainer(self, job: Job) -> Any:
        """TRL's trainer over prompts. Raises TrainingRefused for a row whose prompt or reference has no room."""
        from datasets import Dataset
        from trl import GRPOConfig

        from stages.training import turns
        from stages.training.turns import conversation

        for row in job.rows:
            self._refuse_unfit(job, row, len(turns.prompt_tokens(job, row)))
        thinks = {"thinking": job.thinking.model_dump_json()} if job.thinking else {}
        rows = [
            {
                "prompt": conversation(row),
                "reference": answer_in(row.reference, job.thinking),
                **thinks,
            }
            for row in job.rows
        ]
        return trainer_class()(
            model=job.model,
            reward_funcs=self._reward,
            args=GRPOConfig(
                **turns.random_order(job),
                num_generations=self.num_generations,
                max_completion_length=self.max_completion_length,
                temperature=self.temperature,
                beta=self.beta,
                disable_dropout=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=job.tokenizer,
            peft_config=job.adapter,
            callbacks=list(job.callbacks),
        )

    def _refuse_unfit(self, job: Job, row: Row, prompt: int) -> None:
        if prompt + self.max_completion_length > self.max_length:
            raise TrainingRefused(
                f"{address(row)}: {prompt} tokens of prompt and {self.max_completion_length} of an answer are above "
                f"train.max_length {self.max_length}",
                "raise train.max_length, or lower train.max_completion_length or validate.max_prompt_tokens",
            )
        # The end token counts, too.
        needed = len(job.tokenizer(row.reference, add_special_tokens=False)["input_ids"]) + 1
        if needed > self.max_completion_length:
            raise TrainingRefused(
                f"{address(row)}: no answer can be its reference: that has {needed} tokens with its end, above "
                f"train.max_completion_length {self.max_completion_length}",
                f"set train.max_completion_length to {needed} or more, or lower validate.max_reference_tokens",
            )

    def _reward(
        self,
        completions: Sequence[Any],
        reference: Sequence[str],
        thinking: Sequence[str] = (),
        **_: Any,
    ) -> list[float]:
        """The score of each answer, without its thought; TRL hands every column of the rows over by its name."""
        texts = [turns[-1]["content"] for turns in completions]
        if thinking:
            marked = Thinking.model_validate_json(thinking[0])
            texts = [marked.divide(text).answer for text in texts]
        return [
            scoring.score(self.reward, text, wanted)
            for text, wanted in zip(texts, reference, strict=True)
        ]


@cache
def trainer_class() -> Any:
    """The class of the trainer, made when torch is needed."""
    import torch
    from trl import GRPOTrainer

    from stages.training.trainer import steady

    class Global(GRPOTrainer):
        """GRPOTrainer that draws the order of the prompts from torch's own generator, which checkpoints hold."""

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            sampler = super()._get_train_sampler(*args, **kwargs)
            sampler.generator = torch.default_generator
            return sampler

    return steady(Global)
