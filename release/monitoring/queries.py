"""What Prometheus is asked of a gateway: the shares of requests that miss an objective, by model and environment.

Rules, their tests and dashboards use the same expressions. ``WINDOW`` in one is a span of time such as 5m.
"""

from collections.abc import Iterator
from typing import NamedTuple

from checks import layout
from checks.config.monitor import Objectives
from checks.errors import ParamsRefused
from release.monitoring.gateway.outcomes import ANSWERS, FAILURES
from release.monitoring.gateway.settings import SECONDS

WINDOW = "WINDOW"
_METRIC = "lockstep_gateway_"


class Scope(NamedTuple):
    """Whose requests are counted, as labels of all metrics.

    ``model``: `serve.name`, which the scrape adds (the PodMonitor, `monitor up`). ``environment``: as the gateway says.
    """

    model: str
    environment: str

    def __str__(self) -> str:
        return f"{self.model} in {self.environment}"


BY = ", ".join(Scope._fields)


class Objective(NamedTuple):
    """An objective: ``bad`` requests among ``all`` of them in a window, and the budget for them.

    ``histogram``: the one with a bucket of ``seconds``, without which ``bad`` is empty; None: requests are counted.
    """

    name: str
    says: str
    budget: float
    bad: str
    all: str
    histogram: str | None = None
    seconds: float = 0.0


def selector(of: Scope, *more: str) -> str:
    """The labels that every query asks for, and ``more``."""
    return "{" + ",".join((*(f'{name}="{value}"' for name, value in of._asdict().items()), *more)) + "}"


def metric(name: str, of: Scope, *more: str) -> str:
    """A series of the gateway."""
    return f"{_METRIC}{name}{selector(of, *more)}"


def bucket(histogram: str, of: Scope, seconds: float) -> str:
    """The requests that took at most so long. Prometheus 2 keeps a bound as it was sent, 3 writes 10 as 10.0."""
    return metric(f"{histogram}_bucket", of, f'le=~"{seconds:g}([.]0)?"')


def objectives(of: Scope, wanted: Objectives) -> Iterator[Objective]:
    """Every objective that is set. Raises ParamsRefused for seconds that no bucket of the gateway ends at."""
    if wanted.availability is not None:
        bad, counted = _outcomes(of, *FAILURES), _outcomes(of, *FAILURES, *ANSWERS)
        yield Objective("availability", "requests without a whole answer", 1 - wanted.availability, bad, counted)
    for name, histogram, field in (
        ("latency", "request_seconds", "latency"),
        ("first_token", "time_to_first_token_seconds", "first_token"),
    ):
        if (within := getattr(wanted, field)) is None:
            continue
        if within.seconds not in SECONDS:
            raise ParamsRefused(
                f"{layout.PARAMS}: monitor.objectives.{field}.seconds: {within.seconds:g} is no bucket of the gateway, "
                "so no rule can count it",
                f"use one of {', '.join(f'{each:g}' for each in SECONDS)}",
            )
        all_ = increase(metric(f"{histogram}_count", of))
        bad = f"{all_} - {increase(bucket(histogram, of, within.seconds))}"
        says = f"requests slower than {within.seconds:g} s"
        yield Objective(name, says, 1 - within.share, bad, all_, histogram, within.seconds)
    if wanted.whole_answers is not None:
        cut, answered = _outcomes(of, "cut_off"), _outcomes(of, *ANSWERS)
        yield Objective("whole_answers", "answers that are cut off", 1 - wanted.whole_answers, cut, answered)


def increase(series: str) -> str:
    """How much counters have grown in a window."""
    return f"sum by ({BY}) (increase({series}[{WINDOW}]))"


def _outcomes(of: Scope, *names: str) -> str:
    return increase(metric("outcomes_total", of, f'outcome=~"{"|".join(names)}"'))
