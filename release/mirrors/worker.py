"""The process that speaks to MLflow, so that a store that hangs, or takes seconds to load, can be ended at a deadline.

A job comes on standard input, as JSON: the URI is in no argument list. What was found goes to standard output.
"""

import os
import signal
import sys

from checks.rows import Record
from release.mirrors.compare import Store, Wanted, agree
from release.mirrors.types import Finding, MirrorUnavailable


class Job(Record):
    """What is to be compared, where."""

    uri: str
    wanted: Wanted
    fix: bool


class Done(Record):
    """What was found; ``trouble`` when the store could not be asked, or no more."""

    findings: tuple[Finding, ...]
    trouble: str = ""


def do(job: Job) -> Done:
    """Compare, and fix where that is asked for."""
    try:
        return Done(findings=tuple(agree(_opened(job.uri), job.wanted, job.fix)))
    except MirrorUnavailable as silent:
        return Done(findings=(), trouble=str(silent))


def _opened(uri: str) -> Store:
    if uri.startswith(("http://", "https://")):
        from release.mirrors.rest import Server

        return Server(uri)
    from release.mirrors.direct import Database

    return Database(uri)


def _main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    job = Job.model_validate_json(sys.stdin.buffer.read())
    answer.write(do(job).model_dump_json())
    answer.close()


if __name__ == "__main__":
    _main()
