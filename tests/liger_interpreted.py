"""``stages.train`` with Triton's interpreter in place of a GPU. Prints the kernels that ran, and whether Liger is undone.

In a process of its own, because Triton reads TRITON_INTERPRET when it is imported; each rank of a training is one too. The
interpreter lacks two things that Liger needs, which are added here: floats as arguments of a kernel, and CUDA's
reciprocal square root.

Run: python -m tests.liger_interpreted ROOT
"""

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"
RAN = "LIGER_RAN"  # names a folder, which gets an empty file for each kernel and rank


def main(root: Path) -> None:
    """Train in ``root``."""
    from transformers.models.llama import modeling_llama

    from checks.config import params_file
    from checks.storage import layout
    from stages.train import train
    from stages.training import ranks

    launch = ranks.launch
    ranks.launch = lambda _module, *given: launch("tests.liger_interpreted", *given)
    before = dict(vars(modeling_llama))
    with tempfile.TemporaryDirectory() as folder:
        os.environ[RAN] = folder
        train(params_file.load(root / layout.PARAMS), root)
        ran = sorted(path.name for path in Path(folder).iterdir())
        print(json.dumps({"ran": ran, "undone": vars(modeling_llama) == before}))


def interpret() -> None:
    """Give the interpreter what it lacks, and write down what it runs."""
    import numpy as np
    import triton.language as tl
    from liger_kernel.ops import rms_norm
    from triton.runtime import interpreter

    run, convert = interpreter.GridExecutor.__call__, interpreter._implicit_cvt

    def noted(executor: Any, *args: Any, **kwargs: Any) -> Any:
        Path(os.environ[RAN], f"{executor.fn.__name__}.{os.environ.get('RANK', 0)}").touch()
        return run(executor, *args, **kwargs)

    def converted(argument: Any) -> Any:
        if not isinstance(argument, float):
            return convert(argument)
        return tl.tensor(interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32), tl.float32)

    interpreter.GridExecutor.__call__, interpreter._implicit_cvt = noted, converted
    rms_norm.rsqrt = lambda value: tl.rsqrt(value)  # by name: the interpreter exchanges tl.rsqrt


if __name__ == "__main__":
    interpret()
    if "RANK" in os.environ:
        runpy.run_module("stages.training.step", run_name="__main__")
    main(Path(sys.argv[1]))
