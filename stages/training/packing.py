"""Packing: several rows in one sequence, so that a forward pass has as many tokens as it can and none is padding.

TRL's best-fit decreasing (Ding et al. 2024, arXiv:2404.10830) fills sequences of ``train.max_length`` tokens with whole
rows. Those of a batch are laid end to end, without an attention mask and with positions that start at 0 in each row:
transformers then lets each row attend to itself alone. A model that does not is refused before it trains.
"""

from typing import Any

import torch

from checks.kinds.method import Train
from checks.process.errors import TrainingRefused
from checks.storage import layout
from stages.training.trainer import log_every

_PROBE = 8  # tokens of each row that a model is tried with


def pack(trainer: Any, train: Train) -> None:
    """Let a trainer learn from packed sequences in place of the rows of its train split; those of valid stay.

    The rows have ``input_ids`` and ``labels`` of at most ``train.max_length`` tokens: longer ones would be cut.
    Raises TrainingRefused if the model lets a row see the row before it.
    """
    from trl import pack_dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    padded = trainer.data_collator
    together = DataCollatorForLanguageModeling(padded.pad_token_id, padding_free=True)
    refuse_seen(trainer, together)
    rows = trainer.train_dataset.select_columns(["input_ids", "labels"])
    trainer.train_dataset = pack_dataset(rows, train.max_length, train.packing)
    trainer.data_collator = lambda rows: (together if "seq_lengths" in rows[0] else padded)(rows)
    trainer.args.logging_steps = log_every(train, len(trainer.train_dataset))
    # So that evaluation takes as many rows at once as a step does.
    trainer.args.per_device_eval_batch_size = max(
        1, train.batch_size * len(rows) // len(trainer.train_dataset)
    )


def refuse_seen(trainer: Any, together: Any) -> None:
    """Refuse a model in which a row's logits depend on the tokens of the row before it in the same sequence.

    Two sequences that differ in their first row go through the model as ``together`` makes a batch of each. Masked
    positions add exactly nothing, so the logits of the second row are equal to the last bit, or it sees the first.
    """
    model = trainer.model
    device, training = next(model.parameters()).device, model.training
    first, other, second = (torch.arange(_PROBE) + _PROBE * place for place in range(3))
    words = int(model.config.get_text_config().vocab_size)
    model.eval()
    reason = "the second one sees the first"
    try:
        outputs = []
        for before in (first, other):
            ids = (torch.cat([before, second]) % words).tolist()
            batch = together([{"input_ids": ids, "labels": ids, "seq_lengths": [_PROBE, _PROBE]}])
            inputs = {
                name: tensor.to(device) if isinstance(tensor, torch.Tensor) else tensor
                for name, tensor in batch.items()
                if name != "labels"
            }
            with torch.no_grad(), trainer.accelerator.autocast():
                outputs.append(model(**inputs, use_cache=False).logits[:, _PROBE:])
        if torch.equal(*outputs):
            return
    except (TypeError, ValueError, NotImplementedError) as error:  # it says so itself
        reason = str(error).strip().splitlines()[0]
    finally:
        model.train(training)
    kind = f"{model.config.model_type}, attention {model.config._attn_implementation}"
    raise TrainingRefused(
        f"train.packing: the model of {layout.BASE} ({kind}) cannot keep rows of one sequence apart: {reason}",
        "set train.packing to false",
    )
