"""Runs every check of a server in order, so that each has a result whatever happens."""

from collections.abc import Callable
from typing import get_args

from checks.config.release_params import Serve
from checks.formats.serving import OPTIONAL, CheckName, ServingCheck
from release.serving import logs
from release.serving.client import NoAnswer
from release.serving.probes import answers, contract, endpoints, life, load, score
from release.serving.probes.context import ProbeContext, failed

# The order in which the server is checked. Checks of how it was started send no request.
CHECKS: dict[CheckName, Callable[[ProbeContext], ServingCheck]] = {
    "identity": endpoints.identity,
    "template": answers.template,
    "parity": answers.parity,
    "adapter": answers.adapter,
    "score": score.score,
    "contract": contract.contract,
    "errors": endpoints.errors,
    "metrics": endpoints.metrics,
    "latency": load.latency,
    "egress": life.egress,
    "read-only": life.read_only,
    "drain": life.drain,
}


def examine(context: ProbeContext, began: float) -> tuple[ServingCheck, ...]:
    """Run every check once. ``began``: when the server was started, by time.monotonic.

    If the server is lost, the check that lost it fails with the end of the log, and so does every later check.
    """
    done = [life.start(context, began)]
    if done[0].status != "pass":
        return nothing(done[0], context.serve)
    gone = False
    asked = names(context.serve)
    for name, check in CHECKS.items():
        if name not in asked:
            continue
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


def names(serve: Serve) -> tuple[CheckName, ...]:
    """The checks that these parameters ask for."""
    every: tuple[CheckName, ...] = get_args(CheckName)
    return every if serve.promises else tuple(name for name in every if name not in OPTIONAL)


def nothing(start: ServingCheck, serve: Serve) -> tuple[ServingCheck, ...]:
    """The results for a server that never answered."""
    rest = (name for name in names(serve) if name != "start")
    return (start, *(failed(name, "not asked: the server never answered") for name in rest))


def _last(context: ProbeContext) -> str:
    """The server's exit code, or what its log says."""
    if state := context.server.gone():
        return f"; it ended: {state}"
    log = context.server.log()
    return logs.why(log) if log else ""
