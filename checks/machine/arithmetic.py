"""The same sums by NumPy on every x86-64 processor with AVX2.

NumPy has other logarithms, powers and products of matrices for AVX-512. A verdict is made on one machine and made again
on another, which refuses it where a last digit differs.
"""

import functools
import os
import sys
from pathlib import Path

# What NumPy and its OpenBLAS read when they are loaded.
_CHOICES = {
    # By the names of NumPy 2.0 to 2.3, and by those since. It skips those that it does not know.
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4",
    "OPENBLAS_CORETYPE": "Haswell",
}


def settle() -> None:
    """Make NumPy choose AVX2 in this process and those that it starts; call it before NumPy is loaded.

    A processor without AVX2, or of another kind, keeps its own choices.
    """
    if has_avx2():
        for name, choice in _CHOICES.items():
            os.environ.setdefault(name, choice)


@functools.cache
def has_avx2() -> bool:
    """Whether this is Linux on x86-64 with AVX2."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return False
    return "avx2" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
