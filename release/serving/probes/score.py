"""score: sends the test rows to the server and scores the answers as the stage evaluate did."""

from checks import scoring
from checks.rows import Row
from checks.serving import ServingCheck
from release.serving.client import NoAnswer
from release.serving.dialects import Answer
from release.serving.probes.context import ProbeContext, failed, passed, some, together


def score(context: ProbeContext) -> ServingCheck:
    """The mean of the first scorer over every test row is within serve.verify.margin of the offline one."""

    def ask(row: Row) -> Answer:
        return context.chat(row.messages, context.limit)

    at_once = min(context.runtime.concurrency, context.serve.max_concurrent_requests)
    answers = together(at_once, context.rows, ask, "test rows", "row")
    unanswered, texts = [], []
    for row, answer in zip(context.rows, answers, strict=True):
        if isinstance(answer, NoAnswer):
            unanswered.append(f"row {row.id}: {answer}")
        else:
            texts.append(answer.text)
    if unanswered:
        return failed("score", f"{len(unanswered)} of {len(context.rows)} rows not answered: {some(unanswered)}")
    served = sum(scoring.score(context.scorer, t, r.reference) for t, r in zip(texts, context.rows, strict=True))
    offline = sum(prediction.score for prediction in context.offline)
    count, margin = len(context.rows), context.serve.verify.margin
    difference = abs(served - offline) / count
    differ = sum(t.strip() != p.prediction.strip() for t, p in zip(texts, context.offline, strict=True))
    said = (
        f"{context.scorer.kind} {served / count:.4f} served and {offline / count:.4f} offline on {count} rows, "
        f"{differ} texts differ"
    )
    if difference > margin + 1e-9:
        return failed("score", f"{said}: {difference:.4f} apart where {margin:g} is allowed", difference, margin)
    return passed("score", said, difference, margin)
