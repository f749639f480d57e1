"""NumPy's sums: the same on every processor in a verb as in a stage. What they are is asked in test_cpu_arithmetic."""

import os
import subprocess
import sys

import pytest

# Prints what NumPy computes with that newer processors have, after a verb began.
PROGRAM = """
from click.testing import CliRunner
from release.cli import main
done = CliRunner().invoke(main, ["schema"])
assert done.exit_code == 0, done.output
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(*(name for name in __cpu_dispatch__ if __cpu_features__[name] and name != "X86_V3"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux on x86-64 is promised the same sums")
def test_no_verb_computes_with_avx512() -> None:
    """A verdict that AVX-512 made again would differ in a last digit, and be refused."""
    settled = ("NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE")
    environment = {name: value for name, value in os.environ.items() if name not in settled}
    command = [sys.executable, "-P", "-c", PROGRAM]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
