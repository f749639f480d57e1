"""Asks a server every check in order, so that whatever happens there is an answer to each."""

from collections.abc import Callable
from typing import get_args

from checks.serving import CheckName, ServingCheck
from release.serving import logs
from release.serving.client import NoAnswer
from release.serving.probes import answers, endpoints, life, load, score
from release.serving.probes.context import ProbeContext, failed

# The order in which the server is checked. Checks of how it was started send no request.
CHECKS: dict[CheckName, Callable[[ProbeContext], ServingCheck]] = {
    "identity": endpoints.identity,
    "template": answers.template,
    "parity": answers.parity,
    "adapter": answers.adapter,
    "score": score.score,
    "errors": endpoints.errors,
    "metrics": endpoints.metrics,
    "latency": load.latency,
    "egress": life.egress,
    "read-only": life.read_only,
    "drain": life.drain,
}


def examine(context: ProbeContext, began: float) -> tuple[ServingCheck, ...]:
    """Every check, once. ``began``: when the server was started, by time.monotonic.

    A server that is lost fails the check that lost it, with the end of its log, and every check after that.
    """
    done = [life.start(context, began)]
    if done[0].status != "pass":
        return nothing(done[0])
    gone = False
    for name, check in CHECKS.items():
        if gone:
            done.append(failed(name, "not asked: the server is gone"))
            continue
        try:
            # A server may close a connection that was idle meanwhile, in the very moment in which it is used again.
            context.client.close()
            done.append(check(context))
        except NoAnswer as reason:
            gone = reason.lost or context.server.gone() is not None
            done.append(failed(name, f"{reason}{_last(context) if gone else ''}"))
    return tuple(done)


def nothing(start: ServingCheck) -> tuple[ServingCheck, ...]:
    """All checks of a server that never answered."""
    rest = (name for name in get_args(CheckName) if name != "start")
    return (start, *(failed(name, "not asked: the server never answered") for name in rest))


def _last(context: ProbeContext) -> str:
    """What the server left behind: its exit code, and what its log says."""
    if state := context.server.gone():
        return f"; it ended: {state}"
    log = context.server.log()
    return logs.why(log) if log else ""
