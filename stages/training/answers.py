"""TRL's SFTTrainer, made steady and cheaper on a CPU: the trainer of the methods sft and cpt."""

from functools import cache
from typing import Any


@cache
def trainer_class() -> Any:
    """The trainer's class, created here because it needs torch."""
    import torch
    from torch import nn
    from trl import SFTTrainer

    from stages.training.trainer import Steady

    class Trainer(Steady, SFTTrainer):
        """SFTTrainer that computes logits only at answer positions on a CPU."""

        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """The mean loss per answer token.

            TRL skips the prompt's positions only on a GPU; elsewhere it projects every position onto the vocabulary.
            Here the model projects only positions whose next token belongs to an answer in some row.
            """
            labels = inputs["labels"]
            if labels.device.type == "cuda" or self.aux_loss_enabled or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            columns = (labels[:, 1:] != -100).any(dim=0).nonzero()[:, 0]
            others = {name: value for name, value in inputs.items() if name != "labels"}
            logits = model(**others, logits_to_keep=columns, use_cache=False).logits
            targets = labels[:, columns + 1]
            total = nn.functional.cross_entropy(
                logits.float().flatten(0, 1), targets.flatten(), reduction="sum"
            )
            if num_items_in_batch is None:
                return total / (targets != -100).sum()
            # The number is that of all ranks, and their gradients are averaged, not added.
            return total * self.accelerator.num_processes / num_items_in_batch

        def prediction_step(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            prediction_loss_only: bool,
            ignore_keys: Any = None,
        ) -> Any:
            """The loss of a batch alone: the superclass asks for all logits, which take more memory than training."""
            if not prediction_loss_only:
                return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            with torch.no_grad():
                loss = self.compute_loss(model, self._prepare_inputs(inputs))
            return loss.detach(), None, None

    return Trainer
