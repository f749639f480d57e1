"""latency: how long answers take, one at a time and several at once, and what energy they take."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from checks.formats.energy import Energy
from checks.formats.serving import LONG_ENOUGH, Load, Probe, ServingCheck, Throughput
from checks.machine import meters
from release.serving.client import NoAnswer
from release.serving.dialects import Streamed
from release.serving.probes.context import ProbeContext, failed, passed, some, together

LEVELS = (1, 4, 16)  # requests in flight
REQUESTS = 32  # at each level, or every probe once where there are more


def latency(context: ProbeContext) -> ServingCheck:
    """Stream the probes' answers at each level; a lost, incomplete or different stream fails.

    Here the times and the energy decide nothing, because they depend on the machine. Sets ``context.load``,
    ``context.throughput`` and ``context.streamed``.
    """
    probes = context.probes.probes
    items = [probes[n % len(probes)] for n in range(max(REQUESTS, len(probes)))]

    def ask(probe: Probe) -> Streamed:
        return context.stream(probe)

    levels: list[Load] = []
    for level in LEVELS:
        began = time.monotonic()
        results = together(level, items, ask, f"{level} at a time")
        wall = time.monotonic() - began
        whole = [result for result in results if isinstance(result, Streamed)]
        if lost := [str(result) for result in results if isinstance(result, NoAnswer)]:
            return failed(
                "latency",
                f"{len(lost)} of {len(items)} requests failed at {level} at a time: {some(lost)}",
            )
        if level == 1:
            questions = zip(items, whole, itertools.cycle(context.answers), strict=False)
            if other := list(
                filter(None, (context.unlike(p, s.text, a.text) for p, s, a in questions))
            ):
                return failed("latency", f"a stream differs from the whole answer: {some(other)}")
            context.streamed |= {p.id: s.text for p, s in zip(items, whole, strict=True)}
        levels.append(_load(level, whole, wall))
        context.load = tuple(levels)
    throughput = _throughput(context, items, ask, wall)
    if isinstance(throughput, str):
        return failed("latency", throughput)
    context.throughput = throughput
    alone, most = levels[0], levels[-1]
    figures = (
        f"p50 {alone.p50:.3f} s and p95 {alone.p95:.3f} s one at a time, p95 {most.p95:.3f} s at "
        f"{most.concurrency}; {most.tokens_per_second:.1f} tokens/s at {most.concurrency}"
    )
    return passed("latency", figures, alone.p95)


def _throughput(
    context: ProbeContext, items: Sequence[Probe], ask: Callable[[Probe], Streamed], wall: float
) -> Throughput | str:
    """Of the requests at the highest level, which took ``wall`` seconds; or why a request failed.

    Where energy can be measured, or the policy asks, they are sent again until that takes long enough.
    """
    level, gpus, count, seconds = LEVELS[-1], context.gpus, len(items), wall
    with ExitStack() as stack:
        counters = None if gpus is None else meters.Meters(gpus)
        if counters is not None:
            stack.callback(counters.stop)
        if context.sustained or (counters is not None and counters.can):
            count, began = 0, time.monotonic()
            while (seconds := time.monotonic() - began) < LONG_ENOUGH:
                results = together(level, items, ask, f"{level} at a time")
                if lost := [str(result) for result in results if isinstance(result, NoAnswer)]:
                    return f"{len(lost)} of {len(items)} requests failed at {level} at a time: {some(lost)}"
                count += len(items)
        energy = (
            Energy(missing=("it is not known which machine serves",))
            if counters is None
            else counters.read()
        )
    return Throughput(
        machine=None if gpus is None else meters.machine(gpus), concurrency=level, requests=count,
        seconds=max(round(seconds, 4), 1e-4), energy=energy,
    )  # fmt: skip


def _load(level: int, answers: Sequence[Streamed], wall: float) -> Load:
    seconds = [answer.seconds for answer in answers]
    firsts = [answer.first for answer in answers if answer.first is not None]
    return Load(
        concurrency=level,
        requests=len(answers),
        p50=percentile(seconds, 0.5),
        p95=percentile(seconds, 0.95),
        first_token_p50=percentile(firsts, 0.5) if firsts else None,
        first_token_p95=percentile(firsts, 0.95) if firsts else None,
        tokens_per_second=round(sum(answer.tokens for answer in answers) / max(wall, 1e-9), 2),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed (nearest rank)."""
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 4)
