"""Runs every check of a server in order, so that each has a result whatever happens."""

from collections.abc import Callable
from typing import get_args

from checks.config.release_params import Serve
from checks.formats.serving import CheckName, ServingCheck
from release.serving import logs
from release.serving.client import NoAnswer
from release.serving.probes import answers, contract, endpoints, life, load, neighbours, score
from release.serving.probes.context import ProbeContext, failed

# The order in which the server is checked. Checks of how it was started send no request.
CHECKS: dict[CheckName, Callable[[ProbeContext], ServingCheck]] = {
    "identity": endpoints.identity,
    "template": answers.template,
    "parity": answers.parity,
    "adapter": answers.adapter,
    "score": score.score,
    "neighbours": neighbours.neighbours,
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
        return nothing(done[0], context.serve, beside=context.beside is not None)
    gone = False
    asked = names(context.serve, beside=context.beside is not None)
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


def names(serve: Serve, *, beside: bool = False) -> tuple[CheckName, ...]:
    """The checks that these parameters ask for. ``beside``: the server has other adapters, too."""
    every: tuple[CheckName, ...] = get_args(CheckName)
    asked = {"contract": bool(serve.promises), "neighbours": beside}
    return tuple(name for name in every if asked.get(name, True))


def nothing(start: ServingCheck, serve: Serve, *, beside: bool = False) -> tuple[ServingCheck, ...]:
    """The results for a server that never answered."""
    rest = (name for name in names(serve, beside=beside) if name != "start")
    return (start, *(failed(name, "not asked: the server never answered") for name in rest))


def _last(context: ProbeContext) -> str:
    """The server's exit code, or what its log says."""
    if state := context.server.gone():
        return f"; it ended: {state}"
    log = context.server.log()
    return logs.why(log) if log else ""
