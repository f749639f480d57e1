"""Whether two samples come from one distribution: a classifier's two-sample test on texts, chi-square on labels.

* Texts: a classifier learns to tell the window from the reference on one half of both, and ranks the other half. If
  nothing changed, its ranks are random, whatever it learned, so the Mann-Whitney test of them holds its level
  (Friedman, 2003, "On multivariate goodness-of-fit and two-sample testing"; Lopez-Paz and Oquab, 2017, "Revisiting
  classifier two-sample tests"). A test of the pooled scores of several folds would not.
* Labels: Pearson's chi-square test of both samples. Labels too rare for it are pooled.

Values come in clusters, such as the requests of one user. A whole cluster is in one half, and both tests use the
variance between clusters: Obuchowski (1997, "Nonparametric analysis of clustered ROC curve data") for ranks, Rao and
Scott (1984, "On chi-squared tests for multiway contingency tables") in their second-order form for labels. Where no
cluster is known that is independent of the others, ``beside`` asks whether a window differs more from the windows
before it than those differ from one another.

Every figure has an interval and the effect that is seen with 80 % power.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
import scipy  # It loads its parts when they are used.
from numpy.typing import NDArray

from checks.process import distribution
from checks.stats.planning import POWER

RARE = "(rare)"
_SAME = 1e-9  # A smaller difference comes from rounding.
Values = Sequence[float] | NDArray[np.float64]
LEAST = 20  # Texts of a side, at least. With fewer there is nothing to learn from.
MOST = 10_000  # At most this many texts of each side are read, and characters of a text.
_EXPECTED = 5.0  # Answers that a cell of chi-square's table has if nothing changed.
_TERMS = 8
TYPICAL = 10  # Texts that are named as typical of a side.
_SEEN = 5  # Texts that must have a term before it is named.


class Text(NamedTuple):
    """A text. Texts of one ``cluster`` may depend on one another."""

    id: str
    text: str
    cluster: str


class Ordinary(NamedTuple):
    """The values of a statistic in ``windows`` windows in which nothing is known to have changed."""

    mean: float
    deviation: float  # The standard deviation of a further window from this mean.
    windows: int

    @classmethod
    def of(cls, statistics: Sequence[float]) -> Self:
        """Of at least two windows."""
        count = len(statistics)
        return cls(
            float(np.mean(statistics)),
            float(np.std(statistics, ddof=1)) * math.sqrt(1 + 1 / count),
            count,
        )

    def p(self, statistic: float) -> float:
        """Of the hypothesis that a window with at least this statistic is as the others."""
        if self.deviation < _SAME:
            return float(statistic <= self.mean + _SAME)
        return float(
            scipy.special.stdtr(self.windows - 1, (self.mean - statistic) / self.deviation)
        )

    def seen(self, level: float) -> float:
        """Return the statistic that gives a p-value of ``level`` with 80 % power."""
        return (
            self.mean
            + float(scipy.special.stdtrit(self.windows - 1, 1 - level) + scipy.special.ndtri(POWER))
            * self.deviation
        )


class Separation(NamedTuple):
    """How well a score tells ``n`` values of the window from ``m`` of the reference: AUC, 0.5 where not at all.

    ``p``: of the hypothesis that it does not. ``design``: how many times the variance of as many independent values.
    ``freedom``: degrees of freedom of that variance. ``terms``: what the classifier takes for typical of the window.
    ``typical``: the held-out texts that it takes for most typical of the window, and those of the reference.
    """

    auc: float
    low: float
    high: float
    p: float
    n: int
    m: int
    sided: int
    design: float
    freedom: float
    ordinary: Ordinary | None = None
    terms: tuple[str, ...] = ()
    typical: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def statistic(self) -> float:
        """Return what is compared with ordinary windows."""
        return self.auc - 0.5 if self.sided == 1 else abs(self.auc - 0.5)

    def detectable(self, level: float) -> float | None:
        """Return the AUC above 0.5 that is seen with 80 % power; None: none is."""
        variance = self.design * (self.n + self.m + 1) / (12 * self.n * self.m)
        sees = self._quantiles(level) * math.sqrt(variance)
        if self.ordinary is not None:
            sees = max(sees, self.ordinary.seen(level))
        return sees if sees < 0.5 else None

    def needed(self, effect: float, level: float) -> int | None:
        """Values of the window that see ``effect`` with this reference; None: no number does."""
        if self.ordinary is not None and self.ordinary.seen(level) > effect:
            return None
        room = 12 * (effect / self._quantiles(level)) ** 2 / self.design
        return math.ceil((self.m + 1) / (room * self.m - 1)) if room * self.m > 1 else None

    def beside(self, earlier: Sequence["Separation"]) -> Self:
        """Return the same, held against ``earlier`` windows: the larger of both p-values."""
        ordinary = Ordinary.of([window.statistic for window in earlier])
        return self._replace(p=max(self.p, ordinary.p(self.statistic)), ordinary=ordinary)

    def _quantiles(self, level: float) -> float:
        return float(
            scipy.special.stdtrit(self.freedom, 1 - level / self.sided) + scipy.special.ndtri(POWER)
        )


class Shift(NamedTuple):
    """The chi-square test of labels; ``w`` is Cohen's effect size, ``size`` n m / (n + m) of as many independent
    answers as tell what these do. ``freedom``: of the numerator and of the denominator.
    """

    w: float
    low: float
    high: float
    p: float
    n: int
    m: int
    freedom: tuple[float, float]
    size: float
    statistic: float  # Compared with ordinary windows; about normal.
    # The largest changes: a label, its share in the window and in the reference.
    moved: tuple[tuple[str, float, float], ...]
    ordinary: Ordinary | None = None

    def detectable(self, level: float) -> float | None:
        """Cohen's w that is seen with 80 % power; None: none below 1 is."""
        sees = math.sqrt(self._noncentral(level) / self.size)
        if self.ordinary is not None:
            sees = max(
                sees,
                math.sqrt(max(0.0, self.ordinary.seen(level) ** 3 - self.freedom[0] / self.size)),
            )
        return sees if sees < 1 else None

    def needed(self, effect: float, level: float) -> int | None:
        """Answers of the window that see ``effect`` with this reference; None: no number does."""
        if self.ordinary is not None and self.ordinary.seen(level) ** 3 > effect**2:
            return None
        alike = self.n * self.m / (self.n + self.m) / self.size
        size = self._noncentral(level) * alike / effect**2
        return math.ceil(size * self.m / (self.m - size)) if size < self.m else None

    def beside(self, earlier: Sequence["Shift"]) -> Self:
        """Return the same, held against ``earlier`` windows: the larger of both p-values."""
        ordinary = Ordinary.of([window.statistic for window in earlier])
        return self._replace(p=max(self.p, ordinary.p(self.statistic)), ordinary=ordinary)

    def _noncentral(self, level: float) -> float:
        freedom, below = self.freedom
        return float(
            scipy.special.chndtrinc(
                freedom * scipy.special.fdtri(freedom, below, 1 - level), freedom, 1 - POWER
            )
        )


def separation(
    window: Values, reference: Values, clusters: tuple[Sequence[str], Sequence[str]],
    confidence: float, sided: int,
) -> Separation:  # fmt: skip
    """Whether values of the window rank higher (``sided`` 1) or otherwise (2) than the reference's; each not empty.

    ``clusters``: of the values of both. The interval is Obuchowski's, each end at ``confidence``.
    """
    n, m = len(window), len(reference)
    ranks = scipy.stats.rankdata(np.concatenate([window, reference]))
    ours = (ranks[:n] - scipy.stats.rankdata(window)) / m
    theirs = 1 - (ranks[n:] - scipy.stats.rankdata(reference)) / n
    auc = float(ours.mean())
    variances, freedoms = zip(
        _of_mean(ours, clusters[0], m), _of_mean(theirs, clusters[1], n), strict=True
    )
    variance = sum(variances)
    freedom = max(0.01, min(freedoms))
    alone = (n + m + 1) / (12 * n * m)
    null = max(variance, alone * float(scipy.stats.tiecorrect(ranks)))
    half = float(scipy.special.stdtrit(freedom, confidence)) * math.sqrt(variance)
    p = float(
        scipy.special.stdtr(
            freedom, (0.5 - auc if sided == 1 else -abs(auc - 0.5)) / math.sqrt(null)
        )
    )
    return Separation(
        auc, max(0.0, auc - half), min(1.0, auc + half), min(1.0, sided * p), n, m, sided, max(1.0, null / alone),
        freedom,
    )  # fmt: skip


def _of_mean(
    values: NDArray[np.float64], clusters: Sequence[str], others: int
) -> tuple[float, float]:
    """Return the variance of the mean of ``values`` that come in clusters, and its degrees of freedom (Kish, 1965)."""
    codes = np.unique(clusters, return_inverse=True)[1]
    sizes, count, n = np.bincount(codes), int(codes.max()) + 1, len(values)
    totals = np.bincount(codes, values - values.mean())
    squares = float((totals**2).sum()) * count / max(count - 1, 1)
    return (squares / n + 1 / others**2) / n, n**2 / float((sizes**2).sum()) - 1


def texts(
    window: Sequence[Text], reference: Sequence[Text], confidence: float
) -> Separation | None:
    """Return the classifier's test of two samples of different texts; None where one is too small or has no words.

    The hash of a text's cluster decides which half it is in, so the same texts always give the same result. Where both
    sides have each text once, one that was learned is not ranked: it can only be of the other side. Raises
    MachineRefused without scikit-learn.
    """
    with distribution.needed(
        "scikit-learn is not installed, and a test of texts needs it", "watch"
    ):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    sides = [sorted(side, key=lambda text: _hash(text.id))[:MOST] for side in (window, reference)]
    ours, theirs = ([text for text in side if _half(text.cluster) == 0] for side in sides)
    once = all(len({text.text for text in side}) == len(side) for side in sides)
    known = {text.text for text in (*ours, *theirs)} if once else set[str]()
    held_out = [
        [text for text in side if _half(text.cluster) == 1 and text.text not in known]
        for side in sides
    ]
    if min(map(len, (ours, theirs, *held_out))) < LEAST // 2:
        return None
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=200_000
    )
    try:
        learned = vectorizer.fit_transform([text.text[:MOST] for text in (*ours, *theirs)])
    except ValueError:  # no word is in two texts
        return None
    model = LogisticRegression(class_weight="balanced", max_iter=200)
    model.fit(learned, [1] * len(ours) + [0] * len(theirs))
    scores = [
        model.decision_function(vectorizer.transform([text.text[:MOST] for text in side]))
        for side in held_out
    ]
    clusters = [[text.cluster for text in side] for side in held_out]
    seen = np.asarray((learned[: len(ours)] > 0).sum(axis=0)).ravel()
    weights = np.where(seen >= _SEEN, model.coef_[0], 0.0)
    names = vectorizer.get_feature_names_out()
    terms = tuple(
        str(names[i]) for i in np.argsort(-weights, kind="stable")[:_TERMS] if weights[i] > 0
    )
    result = separation(scores[0], scores[1], (clusters[0], clusters[1]), confidence, 1)
    typical = (_highest(held_out[0], scores[0]), _highest(held_out[1], -scores[1]))
    return result._replace(terms=terms, typical=typical)


def _highest(texts: Sequence[Text], scores: NDArray[np.float64]) -> tuple[str, ...]:
    """Return the different texts with the highest scores, ``TYPICAL`` at most."""
    ranked = (texts[i].text for i in np.argsort(-scores, kind="stable"))
    return tuple(itertools.islice(dict.fromkeys(ranked), TYPICAL))


def labels(window: Sequence[Text], reference: Sequence[Text], confidence: float) -> Shift | None:
    """Return the test of the labels of two samples; None where fewer than two are common enough."""
    n, m = len(window), len(reference)
    if not n or not m:
        return None
    counts = [Counter(text.text for text in side) for side in (window, reference)]
    ours, theirs = _pooled(counts[0], counts[1], _EXPECTED * (n + m) / min(n, m))
    names = sorted(ours | theirs)
    if len(names) < 2:
        return None
    place = {name: index for index, name in enumerate(names)}
    rare = place.get(RARE, 0)
    shares = np.array(
        [[side[name] / sum(side.values()) for name in names] for side in (ours, theirs)]
    )
    both = (n * shares[0] + m * shares[1]) / (n + m)
    spreads, sizes = zip(
        *(
            _spread([place.get(text.text, rare) for text in side], [text.cluster for text in side], len(names))
            for side in (window, reference)
        ),
        strict=True,
    )  # fmt: skip
    size, cells = n * m / (n + m), len(names) - 1
    # The eigenvalues of this matrix are the design effects.
    effects = (spreads[0] + spreads[1]) * size / np.sqrt(np.outer(both, both))
    design = max(1.0, float(np.trace(effects)) / cells)
    unequal = max(1.0, float((effects**2).sum()) / (cells * design**2))
    freedom, below = cells / unequal, cells / unequal * max(0.01, min(sizes) - 1)
    size /= design * unequal
    statistic = size * float(((shares[0] - shares[1]) ** 2 / both).sum())

    def effect(tail: float) -> float:
        """Of which a statistic as small as this has the probability ``tail``."""
        if scipy.stats.chi2.cdf(statistic, freedom) <= tail:
            return 0.0
        return math.sqrt(float(scipy.special.chndtrinc(statistic, freedom, tail)) / size)

    moved = sorted(zip(names, *shares.tolist(), strict=True), key=lambda s: -abs(s[1] - s[2]))
    return Shift(
        math.sqrt(max(0.0, statistic - freedom) / size), effect(confidence), effect(1 - confidence),
        float(scipy.special.fdtrc(freedom, below, statistic / freedom)), n, m, (freedom, below), size,
        (statistic / size) ** (1 / 3),
        tuple(moved[:3]),
    )  # fmt: skip


def _spread(
    cells: Sequence[int], clusters: Sequence[str], count: int
) -> tuple[NDArray[np.float64], float]:
    """The covariance of the shares of ``count`` cells, and how many clusters of one size are as even (Kish, 1965)."""
    codes, n = np.unique(clusters, return_inverse=True)[1], len(cells)
    sizes = np.bincount(codes)
    totals = np.zeros((len(sizes), count))
    np.add.at(totals, (codes, np.asarray(cells)), 1)
    about = totals - np.outer(sizes, totals.sum(axis=0) / n)
    spread: NDArray[np.float64] = about.T @ about * len(sizes) / max(len(sizes) - 1, 1) / n**2
    return spread, n**2 / float((sizes**2).sum())


def _pooled(
    window: Mapping[str, int], reference: Mapping[str, int], least: float
) -> tuple[Counter[str], Counter[str]]:
    """Both counts with labels pooled that have fewer than ``least`` answers in both together."""
    together = Counter(window) + Counter(reference)
    rare = {name for name, count in together.items() if count < least}
    if rare and sum(together[name] for name in rare) < least and len(rare) < len(together):
        rare.add(min(together.keys() - rare, key=lambda name: (together[name], name)))
    ours, theirs = Counter[str](), Counter[str]()
    for side, counts in ((ours, window), (theirs, reference)):
        for name, count in counts.items():
            side[RARE if name in rare else name] += count
    return ours, theirs


def _half(name: str) -> int:
    return _hash(name)[-1] & 1


def _hash(name: str) -> bytes:
    """Of its own, because a gateway takes its sample by another hash of the same id."""
    return hashlib.sha256(f"half {name}".encode()).digest()
