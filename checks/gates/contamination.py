"""contamination: the share of test rows whose request training has seen, by runs of words and by near-duplicates."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.data import contamination
from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import Case, Explained, GateKind, Reads, failed
from checks.records.rows import Learned, Row, request
from checks.records.sections import Share, stricter
from checks.storage import layout

_SHOWN = 3  # rows that a finding names
Pairs = Sequence[tuple[int, int]]  # test row, the first request of a train row that gives it away


class ContaminationGate(GateKind):
    """Rows of the test split that training has seen, or nearly."""

    reads: ClassVar[Reads] = "rows"
    rank: ClassVar[int] = 70

    kind: Literal["contamination"]
    ngram: Annotated[
        int,
        Field(ge=1, description="words in a row that count as seen; shorter prompts count whole"),
        stricter("lower"),  # whoever shares 13 words in a row shares 8
    ]
    max_ngram_share: Annotated[
        Share,
        Field(description="share of test rows with such a run of words in train"),
        stricter("lower"),
    ]
    shingle: Annotated[
        int, Field(ge=1, le=20, description="characters in a shingle of the normalised prompt")
    ]
    similarity: Annotated[
        float,
        Field(gt=0, le=1, description="Jaccard similarity that makes a near-duplicate"),
        stricter("lower"),  # more pairs are near-duplicates
    ]
    max_near_duplicate_share: Annotated[
        Share,
        Field(description="share of test rows with a near-duplicate in train"),
        stricter("lower"),
    ]

    def check(self, case: Case) -> Finding:
        """Pass when both shares are within their bounds.

        The reports of train and evaluate are asked for too: they name, by digest, the splits that were trained on and
        tested, and the chain holds the files against them.
        """
        from checks.data import near_duplicates

        splits = (layout.SPLITS / "train.jsonl", layout.SPLITS / "test.jsonl")
        case.evidence.hold(layout.TRAIN_REPORT, layout.EVALUATION, *splits)
        test, train = case.evidence.test, case.evidence.train
        for path, rows in zip(splits, (train, test), strict=True):
            if not rows:
                return failed(case.name, self, f"no evidence: {path} has no rows")
        asked = [request(row.messages) for row in test]
        learned = [request for row in train for request in row.requests]
        of_row = [r for r in train for _ in r.requests]
        whole = {
            place
            for place, row in enumerate(of_row)
            if row.document and learned[place] is row.request
        }
        runs = list(contamination.first_seen(asked, learned, self.ngram, whole))
        near = list(near_duplicates.first_alike(asked, learned, self.shingle, self.similarity))
        answers = (
            (
                "ngram_share",
                runs,
                self.max_ngram_share,
                f"share {self.ngram} words in a row with a train row",
            ),
            (
                "near_duplicate_share",
                near,
                self.max_near_duplicate_share,
                f"are {self.similarity:g} alike to a train row",
            ),
        )
        broken = [answer for answer in answers if not len(answer[1]) / len(test) <= answer[2]]
        details = []
        for answer in answers:
            _, pairs, bound, what = answer
            share = (
                f"{len(pairs)} of {len(test)} test rows ({len(pairs) / len(test):.1%}) {what}, at "
                f"most {bound:.1%} may"
            )
            details.append(
                share + (f": {_examples(pairs, test, of_row)}" if answer in broken else "")
            )
        metric, pairs, bound, _ = (broken or answers)[0]
        return Finding(
            gate=case.name, kind=self.kind, status="fail" if broken else "pass",
            reason="; ".join(details), metric=metric,
            value=round(len(pairs) / len(test), 6), bound=bound, n=len(test),
            method=f"runs of {self.ngram} words; Jaccard of {self.shingle}-character shingles",
        )  # fmt: skip

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Both shares and their bounds."""
        return Explained(
            f"do at most {self.max_ngram_share:.1%} of the test rows share {self.ngram} words in a row with a training "
            f"row, and are at most {self.max_near_duplicate_share:.1%} alike to one (Jaccard of "
            f"{self.shingle}-character shingles, {self.similarity:g} or more)?",
            "by rule: both shares are counted over all test rows, against all training rows",
            "a lower prepare.near_duplicates.similarity, which keeps such rows in one split, or "
            f"{place}.max_ngram_share and {place}.max_near_duplicate_share",
            f"{layout.SPLITS}/test.jsonl beside train.jsonl",
        )


def _examples(pairs: Pairs, test: Sequence[Row], of_row: Sequence[Learned]) -> str:
    shown = [f"{test[i].id} ({test[i].source}) as {of_row[j].source}" for i, j in pairs[:_SHOWN]]
    more = len(pairs) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
