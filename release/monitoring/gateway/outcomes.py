"""Names the outcomes of requests. Each request has one outcome of a closed list, so every counter starts at 0."""

from typing import Literal, get_args

from release.monitoring.gateway.rows import Exchange

GONE = 499  # status, as nginx calls it: the client went away
_BUSY = 429

Answer = Literal[
    "answered",
    "cut_off",  # an answer that ended at the most tokens of an answer
]
# These count against availability.
Failure = Literal[
    "upstream_error",  # the server could not be reached, or broke off
    "server_error",  # the server answered with 5xx
    "timeout",  # neither the answer nor the first text of a stream came in time
    "no_server",
    "overloaded",  # 429
    "shutdown",  # the gateway ended before the answer
]
# These count nowhere.
Other = Literal[
    "client_error",  # any other 4xx
    "client_closed",
]
Outcome = Answer | Failure | Other
ANSWERS: tuple[Answer, ...] = get_args(Answer)
FAILURES: tuple[Failure, ...] = get_args(Failure)
OUTCOMES: tuple[Outcome, ...] = (*ANSWERS, *FAILURES, *get_args(Other))


def outcome_of(exchange: Exchange) -> Outcome:
    """Return what became of a request that ended."""
    cases: tuple[tuple[bool, Outcome], ...] = (
        *((exchange.error == failure, failure) for failure in FAILURES),
        (exchange.status == GONE, "client_closed"),
        (exchange.status == _BUSY, "overloaded"),
        (400 <= exchange.status < 500, "client_error"),
        (exchange.status >= 500 or exchange.error is not None, "server_error"),
        (exchange.answer.finish == "length", "cut_off"),
    )
    return next((outcome for applies, outcome in cases if applies), "answered")
