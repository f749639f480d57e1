"""score: sends the test rows, and the questions of served suites, to the server and scores the answers as offline."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from checks.evaluation import scoring
from checks.formats.serving import ServingCheck
from checks.formats.thinking import answer_in
from checks.records.rows import Message
from release.serving.client import NoAnswer
from release.serving.dialects import Answer
from release.serving.probes.context import ProbeContext, failed, passed, some, together


class _Question(NamedTuple):
    """A row or sample, and what the merged model answered offline."""

    id: str
    messages: Sequence[Message]
    reference: str
    offline: str
    tools: Sequence[dict[str, JsonValue]] = ()


# The scores of so many rows may differ, however few rows there are: a near tie changes one.
ROWS = 2


class _Compared(NamedTuple):
    """The comparison of one set of questions; ``apart``: of the means, None if a question was not answered.

    ``allowed``: how far they may be apart.
    """

    said: str
    apart: float | None
    allowed: float


def score(context: ProbeContext) -> ServingCheck:
    """Each mean, by the first scorer of the rows or the suite, is within serve.verify.margin of the offline one.

    A margin above 0 allows for two rows at least: one that is less than a row would refuse correct servers. Greedy
    answers to rows whose offline answers were sampled are not compared. Sets ``context.served``.
    """
    rows = [
        _Question(row.id, row.messages, row.reference, offline_answer.prediction, row.tools)
        for row, offline_answer in zip(context.rows, context.offline, strict=True)
    ]

    def of_rows(answer: str, reference: str) -> float:
        return scoring.score(context.scorer, answer, answer_in(reference, context.thinking))

    kind, schema = context.scorer.kind, context.json_schema
    compared = [_compare(context, rows, kind, of_rows, context.limit, schema, "test rows")]
    for suite in context.suites:
        asked = [
            _Question(answer.sample, answer.messages, answer.reference, answer.answer, answer.tools)
            for answer in suite.answers
        ]
        compared.append(
            _compare(
                context,
                asked,
                suite.metric,
                suite.score,
                suite.limit,
                suite.json_schema,
                f"suite {suite.name}",
            )
        )
    summary = "; ".join(comparison.said for comparison in compared)
    if any(comparison.apart is None for comparison in compared):
        return failed("score", summary)
    worst = max(compared, key=lambda each: (each.apart or 0.0) - each.allowed)
    apart, margin = worst.apart or 0.0, context.serve.verify.margin
    if apart > worst.allowed + 1e-9:
        least = "" if worst.allowed == margin else f", but never less than {ROWS} rows"
        why = f"{apart:.4f} apart where {worst.allowed:.4g} is allowed (serve.verify.margin: {margin:g}{least})"
        return failed("score", f"{summary}: {why}", apart, worst.allowed)
    return passed("score", summary, apart, worst.allowed)


def _compare(
    context: ProbeContext,
    questions: Sequence[_Question],
    metric: str,
    scored: Callable[[str, str], float],
    limit: int,
    json_schema: str | None,
    what: str,
) -> _Compared:
    """Ask the questions, for JSON that fits ``json_schema`` if there is one, and compare the means."""
    schema = None if json_schema is None else json.loads(json_schema)

    def ask(question: _Question) -> Answer:
        return context.chat(question, limit, schema=schema)

    count = len(questions)
    at_once = min(context.runtime.concurrency, context.serve.max_concurrent_requests)
    answers = together(at_once, questions, ask, what, "row")
    unanswered = [
        f"row {question.id}: {answer}"
        for question, answer in zip(questions, answers, strict=True)
        if isinstance(answer, NoAnswer)
    ]
    texts = [answer.text for answer in answers if isinstance(answer, Answer)]
    if context.thinking:
        texts = [context.thinking.divide(text).answer for text in texts]
    of = "" if what == "test rows" else f" of {what}"
    margin = context.serve.verify.margin
    allowed = max(margin, ROWS / count) if margin else 0.0
    if not unanswered and what == "test rows":
        context.served = texts
    if unanswered:
        return _Compared(
            f"{len(unanswered)} of {count} rows{of} not answered: {some(unanswered)}", None, allowed
        )
    served = sum(scored(text, q.reference) for text, q in zip(texts, questions, strict=True))
    offline = sum(scored(q.offline, q.reference) for q in questions)
    differ = sum(
        text.strip() != q.offline.strip() for text, q in zip(texts, questions, strict=True)
    )
    if what == "test rows" and context.sampled:
        scores = f"{metric} {served / count:.4f} served greedily on {count} rows, whose offline answers were sampled"
        return _Compared(scores, 0.0, allowed)
    summary = (
        f"{metric} {served / count:.4f} served and {offline / count:.4f} offline on {count} rows{of}, "
        f"{differ} texts differ"
    )
    return _Compared(summary, abs(served - offline) / count, allowed)
