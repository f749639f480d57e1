"""Compares how long the answers of two servers take, by turns on one machine, with an interval.

Other work on the machine slows both servers, and comes and goes. So in each round the same requests go to both, one
server right after the other, and which of them is first changes from round to round. A round gives one ratio for each
level of concurrency, of the geometric means of the requests' times: a single request that had to wait moves it little.
Student's interval of the logarithms over the rounds says how far chance could have moved their mean. Bonferroni's
correction allows for the choice of the worst level.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from release.serving.client import NoAnswer
from release.serving.probes.context import ProbeContext, answered, together

CONFIDENCE = 0.99  # If the bound is 1, an equal server is refused once in a hundred times.
LEVELS = (1, 8)  # So many requests are in flight.
ROUNDS = 16
# Rounds if only one server fits at a time: each takes as long as four of ROUNDS.
RESTARTS = 4
_LEAST = 4  # At least so many requests are sent at a level in each round.

Opener = Callable[[], AbstractContextManager[ProbeContext]]


class Pace(NamedTuple):
    """How many times as long the new server's requests take, with the bounds of the interval, at ``level`` at a time.

    It is the level at which the new server is slower for certain: the one with the highest lower bound.
    """

    ratio: float
    low: float
    high: float
    level: int


def running(context: ProbeContext) -> Opener:
    """Return the opener of a server that stays up."""
    return lambda: nullcontext(context)


def by_turns(new: Opener, old: Opener, rounds: int = ROUNDS) -> Pace | None:
    """Ask both servers in each round. ``new`` and ``old`` start a server, or give one that runs.

    Returns None if a request is not answered.
    """
    sides, ratios = (new, old), list[list[float]]()
    for number in range(rounds):
        logs = np.zeros((2, len(LEVELS)))
        for side in (number % 2, 1 - number % 2):
            with sides[side]() as context:
                try:
                    logs[side] = [_logarithm(context, level, ROUNDS // rounds) for level in LEVELS]
                except NoAnswer:
                    return None
        ratios.append(list(logs[0] - logs[1]))
    return of_rounds(ratios)


def _logarithm(context: ProbeContext, level: int, times: int) -> float:
    """Return the mean logarithm of the seconds of a request, of which ``level`` are in flight.

    Raises NoAnswer if one is not answered.
    """
    probes = context.probes.probes
    items = [probes[place % len(probes)] for place in range(times * max(_LEAST, level))]
    results = together(level, items, lambda probe: context.stream(probe), f"{level} at a time")
    return float(np.log([answer.seconds for answer in answered(results)]).mean())


def of_rounds(ratios: Sequence[Sequence[float]]) -> Pace:
    """Return the pace of the logarithms of ratios: for each round, one for each level."""
    from scipy.special import stdtrit

    table = np.array(ratios)
    count, levels = table.shape
    most = float(stdtrit(count - 1, 1 - (1 - CONFIDENCE) / levels))
    means, errors = table.mean(axis=0), table.std(axis=0, ddof=1) / math.sqrt(count)
    worst = int(np.argmax(means - most * errors))
    mean, apart = float(means[worst]), most * float(errors[worst])
    ratio, low, high = (round(math.exp(value), 4) for value in (mean, mean - apart, mean + apart))
    return Pace(ratio, low, high, LEVELS[worst])
