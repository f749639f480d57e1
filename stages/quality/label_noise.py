"""Labels that may be wrong, as a ranked list: confident learning, by a model that did not see the row it judges.

Multinomial Naive Bayes over TF-IDF of words and pairs of words, the baseline of the evaluation, gives each row the
probability of each label. It is fitted in five folds, and the rows of a group are in one fold. A label's threshold is
the mean probability that its own rows have for it. A row is a suspect if, of the labels that reach their threshold, the
most probable is not the row's own. Suspects are ordered by the probability of their own label, the smallest first
(Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021). The list is
for people to look at: nothing is dropped.
"""

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from checks.formats.data_statistics import LabelNoise, Suspect
from stages.quality.rows_frames import Read

SHOWN = 20
_FOLDS = 5
_SMOOTHING = 0.1  # It is the same in stages.inference.baselines.
_MOST_ROWS, _LARGEST = 50_000, 20_000_000  # rows, and probabilities: rows times labels


def of(read: Mapping[str, Read], without: Container[str]) -> LabelNoise | None:
    """Suspects among the rows of all splits, but for sources ``without``. None if rows are too few or have no words.

    Of more rows than 50,000, every second, third or so is judged.
    """
    labelled = [
        (place, row_id, text, label, group)
        for of_split in read.values()
        for place, row_id, text, label, group, origin in zip(
            of_split.columns["where"], of_split.columns["id"], of_split.requests, of_split.references,
            of_split.columns["group"], of_split.origins, strict=True,
        )
        if origin not in without
    ]  # fmt: skip
    most = max(
        1, min(_MOST_ROWS, _LARGEST // max(1, len({label for _, _, _, label, _ in labelled})))
    )
    labelled = labelled[:: -(-len(labelled) // most) or 1]
    if not labelled:
        return None
    places, ids, texts, labels, groups = zip(*labelled, strict=True)
    if len(set(groups)) < _FOLDS or len(set(labels)) < 2:
        return None
    names, given = np.unique(np.asarray(labels, dtype=object), return_inverse=True)
    probabilities = _out_of_fold(texts, given, groups, len(names))
    if probabilities is None:
        return None
    own, likelier, judged = _confident(probabilities, given)
    order = sorted(
        np.flatnonzero(likelier >= 0).tolist(),
        key=lambda place: (own[place], places[place], ids[place]),
    )
    return LabelNoise(
        judged=judged,
        suspects=len(order),
        rows=tuple(
            Suspect(
                where=places[at],
                id=ids[at],
                label=labels[at],
                likelier=names[likelier[at]],
                confidence=own[at],
            )
            for at in order[:SHOWN]
        ),
    )


def _out_of_fold(texts: Any, given: Any, groups: Any, labels: int) -> Any:
    """The probability of each label for each row, NaN for one that the other folds do not have; None without words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import GroupKFold
    from sklearn.naive_bayes import MultinomialNB

    try:
        words = TfidfVectorizer(ngram_range=(1, 2)).fit_transform(texts)  # it sees no label
    except ValueError:  # every request is punctuation
        return None
    likelihoods = np.full((len(texts), labels), np.nan)
    for fitted, asked in GroupKFold(_FOLDS).split(words, given, groups):
        model = MultinomialNB(alpha=_SMOOTHING).fit(words[fitted], given[fitted])
        likelihoods[np.ix_(asked, model.classes_)] = model.predict_proba(words[asked])
    return likelihoods.round(6)  # so that another machine's sums give the same list


def _confident(probabilities: Any, given: Any) -> tuple[Any, Any, int]:
    """Each row's probability of its own label, the label that confidently contradicts it or -1, and the rows judged."""
    own = probabilities[np.arange(len(given)), given]
    known = ~np.isnan(own)
    rows = np.bincount(given[known], minlength=probabilities.shape[1])
    sums = np.bincount(given[known], weights=own[known], minlength=probabilities.shape[1])
    thresholds = np.divide(sums, rows, out=np.full(len(rows), np.inf), where=rows > 0).round(6)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)  # NaN reaches nothing
    best = reached.argmax(axis=1)
    contradicted = known & (reached.max(axis=1) >= 0) & (best != given)
    return own, np.where(contradicted, best, -1), int(known.sum())
