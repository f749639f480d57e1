"""Suites that a server is asked, with what the merged model answered offline."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from checks.formats.evidence import Evidence
from checks.formats.suite_report import SuiteAnswer
from checks.kinds.suite import SuiteKind
from checks.process.errors import EvidenceRefused
from checks.storage import layout


class Served(NamedTuple):
    """``answers``: the merged model's, offline. ``score``: of an answer and a reference, by ``metric``. ``limit``: most
    tokens of an answer.
    """

    name: str
    metric: str
    answers: Sequence[SuiteAnswer]
    score: Callable[[str, str], float]
    limit: int


def served(suites: Mapping[str, SuiteKind], evidence: Evidence, model: str) -> tuple[Served, ...]:
    """The suites that a server is asked, by their first metric. Raises EvidenceRefused without answers."""
    suites_served = []
    for name, suite in suites.items():
        if (limit := suite.served_tokens) is None:
            continue
        answers = [answer for answer in evidence.given.get(name, ()) if answer.model == model]
        if not answers:
            raise EvidenceRefused(
                f"{layout.suite_answers(name)}: has no answers of {model}", "run `./lockstep run`"
            )
        metric = next(iter(suite.scales))
        suites_served.append(Served(name, metric, answers, partial(suite.score, metric), limit))
    return tuple(suites_served)
