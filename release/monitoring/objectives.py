"""The objectives that alerts watch, and whose requests they count.

Burn rates are those of the SRE workbook (Beyer et al., 2018, chapter 5): an alert fires where errors spend the budget
of 30 days 14.4 times too fast over an hour, or 6 times over six hours, and still do in the last twelfth of that time.
"""

from collections.abc import Iterator
from typing import NamedTuple

from checks.config.monitor import Monitor, Objectives
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.monitoring.gateway.options import SECONDS
from release.monitoring.gateway.outcomes import ANSWERS, FAILURES

_HANG_SECONDS = 60.0  # The time that a request may wait if no objective says it.


class Scope(NamedTuple):
    """The labels of all metrics of one gateway.

    ``model``: `serve.name`, which the scrape adds (the PodMonitor, `monitor up`). ``environment``: as the gateway says.
    """

    model: str
    environment: str

    @property
    def labels(self) -> str:
        """The labels as a selector of PromQL has them between its braces."""
        return f'model="{self.model}",environment="{self.environment}"'

    def __str__(self) -> str:
        return f"{self.model} in {self.environment}"


class Burn(NamedTuple):
    """An alert's speed: it fires if the budget is spent ``times`` too fast over both windows, for so long."""

    name: str
    times: float
    long: str
    short: str
    lasting: str


FAST = Burn("fast", 14.4, "1h", "5m", "1m")
SLOW = Burn("slow", 6.0, "6h", "30m", "5m")


class Objective(NamedTuple):
    """An objective that is set. ``meaning``: the requests that miss it, as a person says it; ``budget``: their share.

    ``histogram``: requests miss it if they are above its bucket of ``seconds``. Otherwise ``misses`` and ``counted``
    are the outcomes of the requests that miss it, and of all that count, as regular expressions.
    """

    name: str
    meaning: str
    budget: float
    misses: str = ""
    counted: str = ""
    histogram: str = ""
    seconds: float = 0.0

    @property
    def alert(self) -> str:
        """The beginning of the names of its alerts."""
        return f"Lockstep{self.name.title().replace('_', '')}"

    @property
    def burns(self) -> list[Burn]:
        """The burns that a share of errors can reach."""
        return self.burns_below(1.0)

    def burns_below(self, share: float) -> list[Burn]:
        """The burns that fire if ``share`` of the requests miss the objective."""
        return [burn for burn in (FAST, SLOW) if burn.times * self.budget < share]


def from_params(wanted: Objectives) -> list[Objective]:
    """Return every objective that is set.

    Raises ParamsRefused for seconds that no bucket of the gateway ends at, and for a budget that no alert fits.
    """
    objectives = list(_set(wanted))
    for objective in objectives:
        if not objective.burns:
            raise ParamsRefused(
                f"{layout.PARAMS}: monitor.objectives: {objective.meaning} may be {objective.budget:.0%}, and no alert "
                f"can be about that: {SLOW.times:g} times as many are more than all",
                f"allow less than {1 / SLOW.times:.1%}",
            )
    return objectives


def _set(wanted: Objectives) -> Iterator[Objective]:
    answers, failures = "|".join(ANSWERS), "|".join(FAILURES)
    if wanted.availability is not None:
        yield Objective(
            "availability",
            "requests without a whole answer",
            1 - wanted.availability,
            failures,
            f"{failures}|{answers}",
        )
    for name, histogram in (
        ("latency", "request_seconds"),
        ("first_token", "time_to_first_token_seconds"),
    ):
        within = getattr(wanted, name)
        if within is None:
            continue
        if within.seconds not in SECONDS:
            raise ParamsRefused(
                f"{layout.PARAMS}: monitor.objectives.{name}.seconds: {within.seconds:g} is no bucket of the gateway, "
                "so no rule can count it",
                f"use one of {', '.join(f'{seconds:g}' for seconds in SECONDS)}",
            )
        yield Objective(
            name,
            f"requests slower than {within.seconds:g} s",
            1 - within.share,
            histogram=histogram,
            seconds=within.seconds,
        )
    if wanted.whole_answers is not None:
        yield Objective(
            "whole_answers",
            "answers that are cut off",
            1 - wanted.whole_answers,
            "cut_off",
            answers,
        )


def hang_seconds(monitor: Monitor) -> float:
    """The time after which a request that got no text counts as hanging."""
    within = monitor.objectives.latency or monitor.objectives.first_token
    return within.seconds if within else _HANG_SECONDS
