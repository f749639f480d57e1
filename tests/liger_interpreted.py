"""``stages.train`` with Triton's interpreter in place of a GPU. Prints the kernels that ran, and whether Liger is undone.

In a process of its own, because Triton reads TRITON_INTERPRET when it is imported. The interpreter lacks two things that
Liger needs, which are added here: floats as arguments of a kernel, and CUDA's reciprocal square root.

Run: python -m tests.liger_interpreted ROOT
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"


def main(root: Path) -> None:
    """Train in ``root``."""
    import numpy as np
    import triton.language as tl  # type: ignore[import-not-found]
    from liger_kernel.ops import rms_norm
    from transformers.models.llama import modeling_llama
    from triton.runtime import interpreter  # type: ignore[import-not-found]

    from checks import layout
    from checks.config import params_file
    from stages.train import train

    ran, run, convert = set(), interpreter.GridExecutor.__call__, interpreter._implicit_cvt

    def counted(executor: Any, *args: Any, **kwargs: Any) -> Any:
        ran.add(executor.fn.__name__)
        return run(executor, *args, **kwargs)

    def converted(argument: Any) -> Any:
        if not isinstance(argument, float):
            return convert(argument)
        return tl.tensor(interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32), tl.float32)

    interpreter.GridExecutor.__call__, interpreter._implicit_cvt = counted, converted
    rms_norm.rsqrt = lambda value: tl.rsqrt(value)  # by name: the interpreter exchanges tl.rsqrt
    before = dict(vars(modeling_llama))
    train(params_file.load(root / layout.PARAMS), root)
    print(json.dumps({"ran": sorted(ran), "undone": vars(modeling_llama) == before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
