"""code: write code.lock: the digest of the code that each stage runs with these parameters, and the policy's defaults.

In:  params.yaml, and the code of the stages.
Out: code.lock.
Run: python -m stages.code         (`lockstep run` and `dvc repro` begin with it, every time)
"""

from pathlib import Path

from checks.code import lock
from checks.config.params import Params
from checks.decision import policy
from stages import entry


def code(params: Params, root: Path) -> str:
    """Write code.lock. Raises ParamsRefused for parameters that DVC would not find, before any other stage runs."""
    lock.refuse_left_out(params)
    made = lock.write(root, params, policy.defaults(params))
    return f"Lockstep {made.lockstep.version}, {len(made.stages)} stages"


if __name__ == "__main__":
    entry.run(lock.STAGE, code)
