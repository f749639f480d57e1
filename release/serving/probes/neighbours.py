"""neighbours: the other adapters on the server answer as they do offline, while the verified one is loaded."""

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from statistics import median

from checks.config.release_params import Serve
from checks.formats.serving import ProbeReport, ServingCheck
from checks.storage import layout
from release.serving import server
from release.serving.beside import BesideServer
from release.serving.client import NoAnswer
from release.serving.probes import answers, endpoints
from release.serving.probes.context import ProbeContext, failed, passed, some

Check = Callable[[ProbeContext], ServingCheck]

_CHECKS: tuple[Check, ...] = (endpoints.identity, answers.parity, answers.adapter)


def neighbours(context: ProbeContext) -> ServingCheck:
    """Ask for each other adapter by each of its names, and for the verified one by those that no other check uses.

    Each is asked its own probes, one at a time, and held to its own record as its own verification held it: it names
    its own folder, answers as its model does offline, and not as the base. In 16 bits the tokens of a model depend on
    what else is in the batch. One question at a time they depend on the adapters alone.

    A server with fewer slots than names removes the adapter that was not used for longest, and loads it again when it
    is asked for. There each name is asked a second time, after all others. What loading costs decides nothing.
    """
    beside = context.beside
    assert beside is not None
    asked = tuple(_names(context, beside))
    if complaints := [complaint for named in asked if (complaint := _wrong(named))]:
        return failed("neighbours", some(complaints))
    others = ", ".join(
        f"{adapter.serve.name} {adapter.loaded.version}" for adapter in beside.adapters
    )
    summary = (
        f"under {len(asked)} more names each adapter answers as its own model does offline; beside it: "
        f"{others or 'no other'}"
    )
    slots = beside.serve.adapter.most if beside.serve.adapter else 0
    if slots > len(asked):
        return passed("neighbours", f"{summary}; each name has a slot of its own")
    times = list[tuple[float, float]]()
    again = (replace(named, unended={}) for named in (context, *asked))
    wrong = (_wrong(named, partial(_first_answers, times)) for named in again)
    if complaints := [complaint for complaint in wrong if complaint]:
        return failed("neighbours", f"loaded again, {some(complaints)}")
    cold, warm = (median(seconds) for seconds in zip(*times, strict=True))
    loading = (
        f"{len(asked) + 1} names share {slots} slots, and each answers so after it was loaded again: first text after "
        f"{cold:.3f} s, {warm:.3f} s once it is loaded (medians)"
    )
    return passed("neighbours", f"{summary}; {loading}", cold - warm)


def _names(context: ProbeContext, beside: BesideServer) -> Iterator[ProbeContext]:
    """Yield what to ask each name with that no other check uses."""
    folder = posixpath.join(context.server.model, layout.SHIPPED_ADAPTER)
    for name in beside.own:
        yield _named(context, name, folder, context.serve, context.probes)
    for adapter in beside.adapters:
        folder = adapter.mount if context.server.how == "container" else str(adapter.folder)
        for name in adapter.names:
            yield _named(context, name, folder, adapter.serve, adapter.probes)


def _named(
    context: ProbeContext, name: str, folder: str, serve: Serve, probes: ProbeReport
) -> ProbeContext:
    """Return what to ask the adapter ``name`` with, which the server has in ``folder``."""
    return replace(
        context,
        model=name,
        server=server.attach(context.server.url, posixpath.dirname(folder)),
        serve=context.serve.model_copy(
            update={"name": name, "verify": serve.verify, "reasoning": serve.reasoning}
        ),
        probes=probes,
        unended={},
    )


def _wrong(named: ProbeContext, *checks: Check) -> str | None:
    """Say what is wrong with an adapter on the server, by ``checks`` and those of all; None: nothing is."""
    try:
        results = (check(named) for check in (*checks, *_CHECKS))
        failures = (result for result in results if result.status == "fail")
        failure = next(failures, None)
    except NoAnswer as reason:
        if reason.lost:
            raise
        return f"{named.model}: {reason}"
    return None if failure is None else f"{named.model}: {failure.name}: {failure.reason}"


def _first_answers(times: list[tuple[float, float]], named: ProbeContext) -> ServingCheck:
    """Compare the first answer of an adapter that the server has to load.

    Adds to ``times`` the seconds until the first text, of this answer and of the next one.
    """
    probes = named.probes.probes
    telling = (probe for probe in probes if named.tidy(probe.text) != named.tidy(probe.base_text))
    probe = next(telling, probes[0])
    first, second = named.stream(probe), named.stream(probe)
    times.append((first.first or first.seconds, second.first or second.seconds))
    unlike = named.unlike(probe, first.text)
    return failed("parity", f"its first answer: {unlike}") if unlike else passed("parity", "")
