"""Which of the base's own weights full fine-tuning trains (``train.full``)."""

import re
from pathlib import Path

from transformers import PreTrainedModel

from checks.kinds.method import Full
from checks.process.errors import TrainingRefused
from stages.weights import shards

# Matches names such as ``model.layers.3.`` and ``h.3.``.
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,5})\.")
_LORA = "use train.lora in place of train.full"


def choose(model: PreTrainedModel, full: Full, base: Path) -> None:
    """Let the chosen weights of ``model``, which is in ``base``, learn in float32, and freeze all others.

    In 16 bits a step smaller than 1/256 of a weight would be lost in rounding. Raises TrainingRefused if ``layers``
    exceeds the number of layers, or if the files of the base do not have each weight exactly once, under its own name:
    then nobody could say what the trained weights replace.
    """
    count = int(model.config.get_text_config().num_hidden_layers)
    if full.layers is not None and full.layers > count:
        raise TrainingRefused(
            f"train.full.layers: {full.layers} is more than the model's {count}",
            f"set it to {count} or less, or null",
        )
    first = 0 if full.layers is None else count - full.layers
    with shards.opened(base) as checkpoint:
        stored = set(checkpoint.tensors)
    names: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(weight), []).append(name)
    for name, weight in model.named_parameters():
        layer = _LAYER.search(name)
        weight.requires_grad = full.layers is None or (layer is not None and int(layer[1]) >= first)
        if not weight.requires_grad:
            continue
        chosen = [known for known in names[id(weight)] if known in stored]
        if chosen != [name]:
            twice = (
                f"has {' and '.join(chosen)}, which are one weight"
                if len(chosen) > 1
                else f"does not name {name}"
            )
            raise TrainingRefused(f"train.full: the file of the base {twice}", _LORA)
        weight.data = weight.data.float()
    if not any(weight.requires_grad for weight in model.parameters()):
        raise TrainingRefused(
            "train.full.layers: no weight of the base is named as one of a layer", "set it to null"
        )
