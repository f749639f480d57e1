"""neighbours: the other adapters on the server answer as they do offline, while the verified one is loaded."""

import posixpath
from dataclasses import replace

from checks.config.release_params import Serve
from checks.formats.serving import ProbeReport, ServingCheck
from checks.storage import layout
from release.serving import server
from release.serving.client import NoAnswer
from release.serving.probes import answers, endpoints
from release.serving.probes.context import ProbeContext, failed, passed, some

_CHECKS = (endpoints.identity, answers.parity, answers.adapter)


def neighbours(context: ProbeContext) -> ServingCheck:
    """Ask for each other adapter by each of its names, and for the verified one by those that no other check uses.

    Each is asked its own probes, one at a time, and held to its own record as its own verification held it: it names
    its own folder, answers as its model does offline, and not as the base. In 16 bits the tokens of a model depend on
    what else is in the batch. One question at a time they depend on the adapters alone.
    """
    beside = context.beside
    assert beside is not None
    folder = posixpath.join(context.server.model, layout.SHIPPED_ADAPTER)
    wrong = [_wrong(context, name, folder, context.serve, context.probes) for name in beside.own]
    for adapter in beside.adapters:
        folder = adapter.mount if context.server.how == "container" else str(adapter.folder)
        wrong += [
            _wrong(context, name, folder, adapter.serve, adapter.probes) for name in adapter.names
        ]
    if complaints := [complaint for complaint in wrong if complaint]:
        return failed("neighbours", some(complaints))
    others = ", ".join(
        f"{adapter.serve.name} {adapter.loaded.version}" for adapter in beside.adapters
    )
    return passed(
        "neighbours",
        f"under {len(wrong)} more names each adapter answers as its own model does offline; beside it: "
        f"{others or 'no other'}",
    )


def _wrong(
    context: ProbeContext, name: str, folder: str, serve: Serve, probes: ProbeReport
) -> str | None:
    """Say what is wrong with the adapter ``name``, which the server has in ``folder``; None: nothing is."""
    named = replace(
        context,
        model=name,
        server=server.attach(context.server.url, posixpath.dirname(folder)),
        serve=context.serve.model_copy(
            update={"name": name, "verify": serve.verify, "reasoning": serve.reasoning}
        ),
        probes=probes,
        unended={},
    )
    try:
        results = (check(named) for check in _CHECKS)
        failures = (result for result in results if result.status == "fail")
        failure = next(failures, None)
    except NoAnswer as reason:
        if reason.lost:
            raise
        return f"{name}: {reason}"
    return None if failure is None else f"{name}: {failure.name}: {failure.reason}"
