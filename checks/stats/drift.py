"""Whether two samples come from one distribution: a classifier's two-sample test on texts, chi-square on labels.

* Texts: a classifier learns to tell the window from the reference on one half of both, and ranks the other half. If
  nothing changed, its ranks are random, whatever it learned, so the Mann-Whitney test of them holds its level
  (Friedman, 2003, "On multivariate goodness-of-fit and two-sample testing"; Lopez-Paz and Oquab, 2017, "Revisiting
  classifier two-sample tests"). A test of the pooled scores of several folds would not.
* Labels: Pearson's chi-square test of both samples. Labels too rare for it are pooled.

Every figure has an interval and the effect that is seen with 80 % power.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from checks.errors import MachineRefused
from checks.stats.planning import POWER

RARE = "(rare)"
LEAST = 20  # texts of each side; with fewer there is nothing to learn from
MOST = 10_000  # texts of each side that are read, and characters of one
_EXPECTED = 5.0  # answers in a cell of chi-square's table, if nothing changed
_TERMS = 8
_SEEN = 5  # texts that a term must be in before it is named

Text = tuple[str, str]  # its id and what it says


class Separation(NamedTuple):
    """How well a score tells ``n`` values of the window from ``m`` of the reference: AUC, 0.5 where not at all.

    ``p``: of the hypothesis that it does not. ``terms``: what the classifier takes for typical of the window.
    """

    auc: float
    low: float
    high: float
    p: float
    n: int
    m: int
    sided: int
    terms: tuple[str, ...] = ()

    def detectable(self, level: float) -> float | None:
        """The AUC above 0.5 that is seen with 80 % power; None: none is."""
        found = _quantiles(level / self.sided) * math.sqrt((self.n + self.m + 1) / (12 * self.n * self.m))
        return found if found < 0.5 else None

    def needed(self, effect: float, level: float) -> int | None:
        """Values of the window that see ``effect`` with this reference; None: no number does."""
        room = 12 * (effect / _quantiles(level / self.sided)) ** 2
        return math.ceil((self.m + 1) / (room * self.m - 1)) if room * self.m > 1 else None


class Shift(NamedTuple):
    """Pearson's chi-square test of labels; ``w`` is Cohen's effect size, ``size`` n m / (n + m) of the answers."""

    w: float
    low: float
    high: float
    p: float
    n: int
    m: int
    freedom: int
    size: float
    moved: tuple[tuple[str, float, float], ...]  # label, its share in the window and in the reference: the largest

    def detectable(self, level: float) -> float | None:
        """Cohen's w that is seen with 80 % power; None: none below 1 is."""
        found = math.sqrt(self._noncentral(level) / self.size)
        return found if found < 1 else None

    def needed(self, effect: float, level: float) -> int | None:
        """Answers of the window that see ``effect`` with this reference; None: no number does."""
        size = self._noncentral(level) / effect**2
        return math.ceil(size * self.m / (self.m - size)) if size < self.m else None

    def _noncentral(self, level: float) -> float:
        from scipy.special import chdtri, chndtrinc

        return float(chndtrinc(chdtri(self.freedom, level), self.freedom, 1 - POWER))


def separation(
    window: NDArray[np.float64], reference: NDArray[np.float64], confidence: float, sided: int
) -> Separation:
    """Whether values of the window rank higher (``sided`` 1) or otherwise (2) than the reference's; each not empty.

    The interval is DeLong's (1988), each end at ``confidence``.
    """
    from scipy.stats import mannwhitneyu, norm, rankdata

    n, m = len(window), len(reference)
    alternative = "greater" if sided == 1 else "two-sided"
    found = mannwhitneyu(window, reference, alternative=alternative, method="asymptotic")
    auc = float(found.statistic) / (n * m)
    ranks = rankdata(np.concatenate([window, reference]))
    ours = (ranks[:n] - rankdata(window)) / m
    theirs = 1 - (ranks[n:] - rankdata(reference)) / n
    variance = (float(ours.var()) + 1 / m**2) / n + (float(theirs.var()) + 1 / n**2) / m
    half = float(norm.ppf(confidence)) * math.sqrt(variance)
    p = float(found.pvalue) if math.isfinite(found.pvalue) else 1.0  # every value is the same
    return Separation(auc, max(0.0, auc - half), min(1.0, auc + half), p, n, m, sided)


def texts(window: Sequence[Text], reference: Sequence[Text], confidence: float) -> Separation | None:
    """The classifier's test of two samples of different texts; None where one is too small or has no words.

    A text's id decides which half it is in, so the same texts always give the same result. Raises MachineRefused
    without scikit-learn.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        todo = "pip install -c constraints.txt -e '.[watch]'"
        raise MachineRefused("scikit-learn is not installed, and a test of texts needs it", todo) from error
    sides = [_sampled(side) for side in (window, reference)]
    halves = [[[text[:MOST] for name, text in side if _half(name) == half] for side in sides] for half in (0, 1)]
    if min(len(side) for half in halves for side in half) < LEAST // 2:
        return None
    (ours, theirs), held = halves
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=200_000)
    try:
        learned = vectorizer.fit_transform([*ours, *theirs])
    except ValueError:  # no word is in two texts
        return None
    model = LogisticRegression(class_weight="balanced", max_iter=200)
    model.fit(learned, [1] * len(ours) + [0] * len(theirs))
    window_scores, reference_scores = (
        np.asarray(model.decision_function(vectorizer.transform(side)), np.float64) for side in held
    )
    seen = np.asarray((learned[: len(ours)] > 0).sum(axis=0)).ravel()
    weights, names = np.where(seen >= _SEEN, model.coef_[0], 0.0), vectorizer.get_feature_names_out()
    typical = tuple(str(names[i]) for i in np.argsort(-weights, kind="stable")[:_TERMS] if weights[i] > 0)
    return separation(window_scores, reference_scores, confidence, 1)._replace(terms=typical)


def labels(window: Mapping[str, int], reference: Mapping[str, int], confidence: float) -> Shift | None:
    """The chi-square test of two counts of labels; None where fewer than two are common enough."""
    from scipy.special import chndtrinc
    from scipy.stats import chi2, chi2_contingency

    n, m = sum(window.values()), sum(reference.values())
    if not n or not m:
        return None
    ours, theirs = _pooled(window, reference, _EXPECTED * (n + m) / min(n, m))
    names = sorted(ours | theirs)
    if len(names) < 2:
        return None
    table = np.array([[side[name] for name in names] for side in (ours, theirs)], np.float64)
    statistic, freedom, size = float(chi2_contingency(table, correction=False)[0]), len(names) - 1, n * m / (n + m)

    def effect(tail: float) -> float:
        """Of which a statistic as small as this has the probability ``tail``."""
        if chi2.cdf(statistic, freedom) <= tail:
            return 0.0
        return math.sqrt(float(chndtrinc(statistic, freedom, tail)) / size)

    shares = sorted(((name, ours[name] / n, theirs[name] / m) for name in names), key=lambda s: -abs(s[1] - s[2]))
    return Shift(
        math.sqrt(max(0.0, statistic - freedom) / size), effect(confidence), effect(1 - confidence),
        float(chi2.sf(statistic, freedom)), n, m, freedom, size, tuple(shares[:3]),
    )  # fmt: skip


def _pooled(window: Mapping[str, int], reference: Mapping[str, int], least: float) -> tuple[Counter[str], Counter[str]]:
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


def _sampled(side: Sequence[Text]) -> list[Text]:
    return sorted(side, key=lambda text: _hash(text[0]))[:MOST]


def _half(name: str) -> int:
    return _hash(name)[-1] & 1


def _hash(name: str) -> bytes:
    """Of its own, because a gateway takes its sample by another hash of the same id."""
    return hashlib.sha256(f"half {name}".encode()).digest()


def _quantiles(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(1 - level) + ndtri(POWER))
