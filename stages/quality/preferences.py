"""Makes validate's frames of pairs and of judged answers, and their expectations.

Three things let a method learn something else than which answer is better. Pairs that contradict themselves cancel
out. Where the better answer is mostly the longer one, length is learned. Where the words of an answer alone tell
better from worse, whatever was asked, these words are learned: Naive Bayes over words, cross-validated with each
group in one fold, measures that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from checks.config.pipeline_params import Preferences
from checks.records.rows import Row
from checks.storage import layout
from checks.training.preferences import (
    COMPLETION,
    LABEL,
    REJECTED,
    liked,
    reversed_pairs,
    same,
    text,
)
from stages.quality.expectations import Expected, Frame, Suite, great_expectations

PAIRS, JUDGED, BIAS = "pairs", "judged answers", "bias"
_MOST = 5000  # answers that Naive Bayes sees
_FOLDS = 5

Splits = Mapping[str, Sequence[Row]]


def frames(
    rows: Splits, columns: Sequence[str], count: Any, some: Sequence[str] = ()
) -> dict[str, Frame]:
    """Frames for the columns that the method needs; none for a method that needs neither pairs nor judged answers.

    ``some``: columns that only the rows of one step have (``checks.training.steps``).
    """
    by_name: dict[str, Frame] = {}
    bias: dict[str, Any] = {"where": layout.SPLITS.as_posix(), "id": "all splits"}
    if REJECTED in columns:
        places, together = _with(rows, [REJECTED], some)
        by_name[PAIRS] = _pairs(places, together, count)
        by_name[BIAS] = [bias | _bias_of_pairs(together, by_name[PAIRS])]
    if COMPLETION in columns:
        places, together = _with(rows, [COMPLETION, LABEL], some)
        by_name[JUDGED] = _judged(places, together, count)
        labelled = [
            (text(row, COMPLETION), liked(row.extra.get(LABEL)), row.group) for row in together
        ]
        answers = [
            (answer, label, group)
            for answer, label, group in labelled
            if answer and label is not None
        ]
        labels = [liked(row.extra.get(LABEL)) for row in rows["train"]]
        figures = {
            "told_by_words": told_by_words(answers),
            "liked": labels.count(True),
            "disliked": labels.count(False),
        }
        by_name[BIAS] = [bias | (by_name[BIAS][0] if BIAS in by_name else {}) | figures]
    return by_name


def suites(columns: Sequence[str], bounds: Preferences | None, longest: int) -> dict[str, Suite]:
    """Frame to suite, for the same columns; ``longest``: validate.max_reference_tokens."""
    if bounds is None:
        return {}
    gxe = great_expectations().expectations
    by_name: dict[str, Suite] = {}
    todo = "fix or remove these rows in the data source"

    def answers(column: str) -> Suite:
        return {
            f"{column} is text": Expected(gxe.ExpectColumnValuesToNotBeNull(column=column), todo),
            f"{column} has at most {longest} tokens": Expected(
                gxe.ExpectColumnValuesToBeBetween(column="tokens", min_value=1, max_value=longest),
                f"raise validate.max_reference_tokens, which bounds every answer, or {todo}",
            ),
        }

    bias: Suite = {
        f"words alone tell better from worse answers by an AUC of at most {bounds.max_auc:g}": Expected(
            gxe.ExpectColumnValuesToBeBetween(column="told_by_words", max_value=bounds.max_auc),
            "bring worse answers that are right for other prompts, so that no word is always wrong, or raise "
            f"validate.preferences.max_auc ({bounds.max_auc:g})",
        )
    }
    if REJECTED in columns:
        by_name[PAIRS] = {
            **answers(REJECTED),
            "the two answers differ": Expected(
                gxe.ExpectColumnValuesToBeNull(column="same_as_reference"), todo
            ),
            "no pair is there in both orders": Expected(
                gxe.ExpectColumnValuesToBeNull(column="other_order_of"), todo
            ),
        }
        low, high = 0.5 - bounds.max_length_bias, 0.5 + bounds.max_length_bias
        bias[f"the better answer is the longer one in {low:g} to {high:g} of the pairs"] = Expected(
            gxe.ExpectColumnValuesToBeBetween(column="longer", min_value=low, max_value=high),
            "bring pairs whose worse answer is the longer one (or the shorter one), or raise "
            f"validate.preferences.max_length_bias ({bounds.max_length_bias:g})",
        )
    if COMPLETION in columns:
        by_name[JUDGED] = {
            **answers(COMPLETION),
            "label is true or false": Expected(
                gxe.ExpectColumnValuesToNotBeNull(column=LABEL), todo
            ),
            "no answer that people disliked is the reference": Expected(
                gxe.ExpectColumnValuesToBeNull(column="disliked_reference"), todo
            ),
        }
        for label in ("liked", "disliked"):
            bias[f"train has answers that people {label}"] = Expected(
                gxe.ExpectColumnValuesToBeBetween(column=label, min_value=1),
                f"bring answers that people {label}: those of one kind alone teach nothing",
            )
    return by_name | {BIAS: bias} if by_name else {}


def told_by_words(answers: Sequence[tuple[str, bool, str]]) -> float | None:
    """Area under the ROC curve by which words tell better from worse; None where there are too few to say.

    ``answers`` are text, whether it is a better one, and the group of its row.
    """
    step = -(-len(answers) // _MOST) or 1
    texts, better, groups = zip(*answers[::step], strict=True) if answers else ((), (), ())
    if len(set(groups)) < _FOLDS or len(set(better)) < 2:
        return None
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        CountVectorizer(analyzer=str.split, binary=True), MultinomialNB(fit_prior=False)
    )
    likelihoods = cross_val_predict(
        model,
        list(texts),
        list(better),
        groups=groups,
        cv=GroupKFold(_FOLDS),
        method="predict_log_proba",
    )
    # Rounded, so that another machine's sums give the same value and words that say nothing are ties.
    return round(float(roc_auc_score(better, [round(of[1] - of[0], 9) for of in likelihoods])), 3)


def _with(rows: Splits, columns: Sequence[str], some: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Place and row of those that have one of the columns; of all, if every row must have them."""
    needed = [column for column in columns if column in some]
    rows_with = [
        (f"{layout.SPLITS}/{name}.jsonl:{line}", row)
        for name, of_split in rows.items()
        for line, row in enumerate(of_split, 1)
        if not needed or any(row.extra.get(column) is not None for column in needed)
    ]
    return [place for place, _ in rows_with], [row for _, row in rows_with]


def _pairs(places: Sequence[str], rows: Sequence[Row], count: Any) -> Frame:
    turned = reversed_pairs(rows)
    pairs = []
    for place, (row, tokens) in enumerate(zip(rows, _tokens(rows, REJECTED, count), strict=True)):
        worse = text(row, REJECTED)
        alike = worse is not None and same(worse, row.reference)
        pairs.append(
            {
                "where": places[place],
                "id": row.id,
                REJECTED: worse,
                "tokens": tokens,
                "same_as_reference": worse if alike else None,
                "other_order_of": places[turned[place]] if place in turned else None,
            }
        )
    return pairs


def _judged(places: Sequence[str], rows: Sequence[Row], count: Any) -> Frame:
    judged = []
    for place, row, tokens in zip(places, rows, _tokens(rows, COMPLETION, count), strict=True):
        answer, label = text(row, COMPLETION), liked(row.extra.get(LABEL))
        wrong = answer is not None and label is False and same(answer, row.reference)
        judged.append(
            {
                "where": place,
                "id": row.id,
                COMPLETION: answer,
                "tokens": tokens,
                LABEL: None if label is None else str(label).lower(),
                "disliked_reference": answer if wrong else None,
            }
        )
    return judged


def _tokens(rows: Sequence[Row], column: str, count: Any) -> list[int | None]:
    """Return tokens of the answer in ``column`` and of the end of its turn; None where there is no text."""
    answers = [text(row, column) for row in rows]
    others = [
        row.model_copy(
            update={"reference": answer or "-", "calls": row.turn(answer or "-").tool_calls}
        )
        for row, answer in zip(rows, answers, strict=True)
    ]
    counted = count(others)
    return [
        tokens.reference if answer else None
        for tokens, answer in zip(counted, answers, strict=True)
    ]


def _bias_of_pairs(rows: Sequence[Row], pairs_frame: Frame) -> dict[str, float | None]:
    pairs = [
        (row, entry[REJECTED])
        for row, entry in zip(rows, pairs_frame, strict=True)
        if entry[REJECTED]
    ]
    longer = [
        (len(row.reference) > len(worse)) + 0.5 * (len(row.reference) == len(worse))
        for row, worse in pairs
    ]
    answers = [
        answer
        for row, worse in pairs
        for answer in ((row.reference, True, row.group), (worse, False, row.group))
    ]
    share = round(sum(longer) / len(longer), 3) if longer else None
    return {"longer": share, "told_by_words": told_by_words(answers)}
