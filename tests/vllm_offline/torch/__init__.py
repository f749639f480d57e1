"""What of torch the worker asks to say where it runs: a CPU, or with STANDIN_GPUS so many GPUs."""

import os
from types import SimpleNamespace

__version__ = "2.13.0+standin"
_GPUS = int(os.environ.get("STANDIN_GPUS", "0"))
cuda = SimpleNamespace(
    is_available=lambda: _GPUS > 0, device_count=lambda: _GPUS, get_device_name=lambda: "NVIDIA Stand-in"
)
backends = SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX512"))
