"""The device that a training runs on, and what it refuses of it."""

import os

from checks.kinds.method import Train
from checks.process.errors import MachineRefused
from stages.training.checkpoints import say


def device_of(train: Train, quiet: bool = False) -> tuple[str, int]:
    """The device, and the threads of each process. Says which GPUs train if not all do, unless ``quiet``.

    Raises MachineRefused if it cannot train in this precision, or if there are fewer than ``devices``.
    """
    import torch

    several = f", {train.devices} ranks" if train.devices > 1 else ""
    if torch.cuda.is_available():
        visible = torch.cuda.device_count()
        if train.devices > visible:
            raise MachineRefused(
                f"train.devices: {train.devices}, and {visible} {'GPU is' if visible == 1 else 'GPUs are'} visible",
                f"set it to {visible} or less, or make more visible: see CUDA_VISIBLE_DEVICES",
            )
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        if train.precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise MachineRefused(
                f"train.precision: {torch.cuda.get_device_name()} has no bf16",
                "set train.precision to fp16",
            )
        if train.devices < visible and not quiet:
            uses = "the first" if train.devices == 1 else f"the first {train.devices}"
            say(f"{visible} GPUs are visible, and train.devices is {train.devices}: {uses} trains")
        return f"cuda ({torch.cuda.get_device_name()}){several}", max(
            1, torch.get_num_threads() // train.devices
        )
    if train.precision == "fp16":
        raise MachineRefused(
            "train.precision: fp16 needs a GPU, and there is none",
            "set train.precision to bf16 or fp32",
        )
    if train.shard:  # accelerate would train without it, and say nothing
        raise MachineRefused(
            f"train.shard: {train.shard} needs GPUs, and there is none", "set train.shard to null"
        )
    threads = max(1, torch.get_num_threads() // train.devices)
    return f"cpu ({threads} threads){several}", threads
