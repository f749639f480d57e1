"""The process that talks to MLflow, so that a store that hangs or loads slowly can be killed at a deadline.

A job comes as JSON on standard input: the URI is not in the arguments, which others can see. The result goes to
standard output.
"""

import os
import signal
import sys

from checks.records.rows import Record
from release.mirrors.compare import Wanted
from release.mirrors.mlflow_client import ModelRegistry
from release.mirrors.repair import agree
from release.mirrors.types import Finding, MirrorUnavailable


class Job(Record):
    """A comparison to make, and where."""

    uri: str
    wanted: Wanted
    fix: bool


class Done(Record):
    """The result; ``trouble`` if the store could not be reached or failed."""

    findings: tuple[Finding, ...]
    trouble: str = ""


def do(job: Job) -> Done:
    """Compare, and fix if the job asks for it."""
    try:
        return Done(findings=tuple(agree(ModelRegistry(job.uri), job.wanted, job.fix)))
    except MirrorUnavailable as silent:
        return Done(findings=(), trouble=str(silent))


def _main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Lines that libraries print are no answer.
    job = Job.model_validate_json(sys.stdin.buffer.read())
    answer.write(do(job).model_dump_json())
    answer.close()


if __name__ == "__main__":
    _main()
