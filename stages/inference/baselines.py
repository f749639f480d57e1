"""Cheap baselines on the same rows: what a language model has to beat to earn its cost. Through scikit-learn.

In:  train and test rows. Out: an answer per test row. Both are deterministic.

* ``majority``: the commonest answer of train, always.
* ``naive-bayes``: multinomial Naive Bayes over TF-IDF of words and pairs of words in the last user message,
  additive smoothing 0.1.
"""

from collections.abc import Sequence
from typing import Any

from checks.errors import EvaluationRefused
from checks.rows import Row

SMOOTHING = 0.1

# Numbers in the table of answers by words; beyond it (4 GB) the baseline is not cheap.
_MAX_TABLE = 500_000_000


def answer(kind: str, train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Answers of the baseline ``kind`` to ``test``. Raises EvaluationRefused when it cannot be fitted."""
    if not train:
        raise EvaluationRefused(
            "data/splits/train.jsonl: has no rows to fit a baseline on", "run `./lockstep run prepare`"
        )
    if kind == "majority":
        return _majority(train, test)
    return _naive_bayes(train, test)


def _majority(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    from sklearn.dummy import DummyClassifier

    model = DummyClassifier(strategy="most_frequent").fit([[0]] * len(train), [row.reference for row in train])
    return [str(found) for found in model.predict([[0]] * len(test))]


def _naive_bayes(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.naive_bayes import MultinomialNB

    vectorizer: Any = TfidfVectorizer(ngram_range=(1, 2))
    references = [row.reference for row in train]
    try:
        words = vectorizer.fit_transform([row.prompt for row in train])
    except ValueError as error:  # every prompt is punctuation, or stop words
        raise EvaluationRefused(
            f"naive-bayes: the prompts of train hold no words: {error}", "take it out of evaluate.baselines"
        ) from error
    table = len(set(references)) * words.shape[1]
    if table > _MAX_TABLE:
        raise EvaluationRefused(
            f"naive-bayes: {len(set(references))} answers by {words.shape[1]} words make a table of "
            f"{table * 8 / 1e9:.0f} GB",
            "take it out of evaluate.baselines: free text is no task for it",
        )
    model = MultinomialNB(alpha=SMOOTHING).fit(words, references)
    return [str(found) for found in model.predict(vectorizer.transform([row.prompt for row in test]))]
