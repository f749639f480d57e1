"""Whether a server made use of the optional settings that params.yaml turns on, by its own counters."""

import time
from collections.abc import Mapping

from release.serving.probes.context import ProbeContext
from release.serving.probes.endpoints import METRIC_SECONDS, samples

_WORDS = {"prefix_caching": "prefix caching", "speculation": "speculation"}


def read(context: ProbeContext) -> dict[str, float]:
    """The server's counters; empty if no setting that is on has one."""
    exposed = context.runtime.metrics
    if exposed is None or not any(
        setting.counters for setting in context.runtime.chosen(context.serve).values()
    ):
        return {}
    return samples(context.client.get(exposed.path).good().body)


def since(context: ProbeContext, before: Mapping[str, float]) -> tuple[str | None, list[str]]:
    """Return what is wrong if a counter did not grow since ``before``, else None; and what is known of each setting."""
    uses = []
    for key, setting in context.runtime.chosen(context.serve).items():
        if key not in _WORDS or getattr(context.serve, key) is False:
            continue
        grew = _grown(context, setting.counters, before)
        if still := [name for name, more in grew.items() if more <= 0]:
            wrong = f"serve.{key}: {still[0]} did not grow while the probes were answered"
            return f"{wrong}: so {_WORDS[key]} was not tested", []
        counted = ", ".join(f"{name} grew by {more:g}" for name, more in grew.items())
        uses.append(
            f"{_WORDS[key]}: {counted or f'{context.runtime.name} does not count how often it was used'}"
        )
    return None, uses


def _grown(
    context: ProbeContext, counters: tuple[str, ...], before: Mapping[str, float]
) -> dict[str, float]:
    """By how much each counter grew; those that lag behind the answers are waited for."""
    until = time.monotonic() + METRIC_SECONDS
    while True:
        after = read(context)
        grew = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in counters}
        if all(more > 0 for more in grew.values()) or time.monotonic() > until:
            return grew
        time.sleep(0.2)
