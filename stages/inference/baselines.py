"""Cheap baselines on the same rows: what a language model has to beat to earn its cost. Through scikit-learn.

In:  train and test rows. Out: an answer per test row. Both are deterministic.

* ``majority``: the commonest answer of train, always.
* ``nearest``: the answer to the most similar request of train, by cosine over TF-IDF of words and pairs of words in the
  request. Among rows with the same system message where train has some, else among all; of several that are as similar,
  the first.
* ``naive-bayes``: multinomial Naive Bayes over TF-IDF of words and pairs of words in the request, additive
  smoothing 0.1.

The request of a chat is all its turns before the answer, but the system's: "and in another region?" alone says little.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from checks.process.errors import EvaluationRefused
from checks.records.rows import Row, request

SMOOTHING = 0.1

# Numbers in the table of answers by words; beyond it (4 GB) the baseline is not cheap.
_MAX_TABLE = 500_000_000


def answer(kind: str, train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    """Answers of the baseline ``kind`` to ``test``. Raises EvaluationRefused when it cannot be fitted."""
    if not train:
        raise EvaluationRefused(
            "data/splits/train.jsonl: has no rows to fit a baseline on",
            "run `./lockstep run prepare`",
        )
    return {"majority": _majority, "nearest": _nearest, "naive-bayes": _naive_bayes}[kind](
        train, test
    )


def _majority(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    from sklearn.dummy import DummyClassifier

    model = DummyClassifier(strategy="most_frequent").fit(
        [[0]] * len(train), [row.reference for row in train]
    )
    return [str(label) for label in model.predict([[0]] * len(test))]


def _nearest(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    vectorizer, words = _words("nearest", train)
    of_system = defaultdict[str, list[int]](list)
    for place, row in enumerate(train):
        of_system[_system(row)].append(place)
    asked = vectorizer.transform([request(row.messages) for row in test])
    everywhere = range(len(train))
    answers = list[str]()
    for row, vector in zip(test, asked, strict=True):
        places = of_system.get(_system(row), everywhere)
        similar = (words[list(places)] @ vector.T).toarray()[:, 0]
        answers.append(train[places[int(similar.argmax())]].reference)
    return answers


def _system(row: Row) -> str:
    return "".join(message.content for message in row.messages if message.role == "system")


def _words(kind: str, train: Sequence[Row]) -> tuple[Any, Any]:
    """A vectorizer of words and pairs of words, and the prompts of train by it: (rows, terms), each of length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer: Any = TfidfVectorizer(ngram_range=(1, 2))
    try:
        return vectorizer, vectorizer.fit_transform([request(row.messages) for row in train])
    except ValueError as error:  # every prompt is punctuation, or stop words
        raise EvaluationRefused(
            f"{kind}: the prompts of train hold no words: {error}",
            "take it out of evaluate.baselines",
        ) from error


def _naive_bayes(train: Sequence[Row], test: Sequence[Row]) -> list[str]:
    from sklearn.naive_bayes import MultinomialNB

    vectorizer, words = _words("naive-bayes", train)
    references = [row.reference for row in train]
    table = len(set(references)) * words.shape[1]
    if table > _MAX_TABLE:
        raise EvaluationRefused(
            f"naive-bayes: {len(set(references))} answers by {words.shape[1]} words make a table of "
            f"{table * 8 / 1e9:.0f} GB",
            "take it out of evaluate.baselines: free text is no task for it",
        )
    model = MultinomialNB(alpha=SMOOTHING).fit(words, references)
    return [
        str(label)
        for label in model.predict(vectorizer.transform([request(row.messages) for row in test]))
    ]
