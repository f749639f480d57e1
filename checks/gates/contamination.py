"""contamination: the share of test rows whose request training has seen, by runs of words and by near-duplicates."""

from collections.abc import Sequence

from checks import contamination, layout, similar
from checks.chain import Evidence
from checks.gate_kinds import ContaminationGate
from checks.gates.asked import failed, gap
from checks.rows import Row
from checks.splits import request
from checks.verdict import Finding

_SHOWN = 3  # rows that a finding names
Pairs = Sequence[tuple[int, int]]  # test row, the first train row that gives it away


def ask(name: str, gate: ContaminationGate, evidence: Evidence) -> Finding:
    """Pass when both shares are within their bounds.

    The reports of train and evaluate are asked for too: they name, by digest, the splits that were trained on and
    tested, and the chain holds the files against them.
    """
    splits = (layout.SPLITS / "train.jsonl", layout.SPLITS / "test.jsonl")
    if missing := gap(evidence, (layout.TRAIN_REPORT, layout.EVALUATION, *splits)):
        return failed(name, gate, missing)
    test, train = evidence.test, evidence.train
    for path, rows in zip(splits, (train, test), strict=True):
        if not rows:
            return failed(name, gate, f"no evidence: {path} has no rows")
    asked, learned = [request(row.messages) for row in test], [request(row.messages) for row in train]
    runs = list(contamination.first_seen(asked, learned, gate.ngram))
    near = list(similar.first_alike(asked, learned, gate.shingle, gate.similarity))
    answers = (
        ("ngram_share", runs, gate.max_ngram_share, f"share {gate.ngram} words in a row with a train row"),
        ("near_duplicate_share", near, gate.max_near_duplicate_share, f"are {gate.similarity:g} alike to a train row"),
    )
    broken = [answer for answer in answers if not len(answer[1]) / len(test) <= answer[2]]
    said = []
    for answer in answers:
        _, pairs, bound, what = answer
        share = f"{len(pairs)} of {len(test)} test rows ({len(pairs) / len(test):.1%}) {what}, at most {bound:.1%} may"
        said.append(share + (f": {_examples(pairs, test, train)}" if answer in broken else ""))
    metric, pairs, bound, _ = (broken or answers)[0]
    return Finding(
        gate=name, kind=gate.kind, status="fail" if broken else "pass", reason="; ".join(said), metric=metric,
        value=round(len(pairs) / len(test), 6), bound=bound, n=len(test),
        method=f"runs of {gate.ngram} words; Jaccard of {gate.shingle}-character shingles",
    )  # fmt: skip


def _examples(pairs: Pairs, test: Sequence[Row], train: Sequence[Row]) -> str:
    shown = [f"{test[i].id} ({test[i].source}) as {train[j].source}" for i, j in pairs[:_SHOWN]]
    more = len(pairs) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
