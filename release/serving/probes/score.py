"""score: the test rows through the server, scored as evaluate scored the merged model."""

from checks import scoring
from checks.rows import Row
from checks.serving import ServingCheck
from release.serving.client import NoAnswer
from release.serving.dialects import Answer
from release.serving.probes.asked import Asked, failed, passed, some, together


def score(asked: Asked) -> ServingCheck:
    """The mean of the first scorer is within serve.verify.margin of the offline one, over every test row."""

    def ask(row: Row) -> Answer:
        return asked.chat(row.messages, asked.limit)

    at_once = min(asked.runtime.concurrency, asked.serve.max_concurrent_requests)
    answers = together(at_once, asked.rows, ask, "test rows", "row")
    unanswered, texts = [], []
    for row, answer in zip(asked.rows, answers, strict=True):
        if isinstance(answer, NoAnswer):
            unanswered.append(f"row {row.id}: {answer}")
        else:
            texts.append(answer.text)
    if unanswered:
        return failed("score", f"{len(unanswered)} of {len(asked.rows)} rows not answered: {some(unanswered)}")
    served = sum(scoring.score(asked.scorer, t, r.reference) for t, r in zip(texts, asked.rows, strict=True))
    offline = sum(prediction.score for prediction in asked.offline)
    count, margin = len(asked.rows), asked.serve.verify.margin
    difference = abs(served - offline) / count
    differ = sum(t.strip() != p.prediction.strip() for t, p in zip(texts, asked.offline, strict=True))
    said = (
        f"{asked.scorer.kind} {served / count:.4f} served and {offline / count:.4f} offline on {count} rows, "
        f"{differ} texts differ"
    )
    if difference > margin + 1e-9:
        return failed("score", f"{said}: {difference:.4f} apart where {margin:g} is allowed", difference, margin)
    return passed("score", said, difference, margin)
