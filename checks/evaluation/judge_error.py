"""How often a judge that labels captured requests is wrong, and whether its suite allows that.

The error is measured on answers to requests that people labelled too. An answer that the judge gives the highest value
is wrong if it is not what the label says.
"""

from collections.abc import Iterable, Mapping

from checks.evaluation import scoring
from checks.formats.harvest import Judged
from checks.kinds.judge import JudgeKind
from checks.kinds.scorer import Scorer
from checks.kinds.suite import SuiteKind
from checks.storage import digest

_LEVEL = 0.05  # The chance that a judge's true error lies above its bound.


def measure(
    suite: str, judge: JudgeKind, scorer: Scorer, asked: int, answers: Iterable[tuple[str, str]]
) -> Judged:
    """Return the error of the judge of ``suite`` on ``answers`` that it calls right, each with people's label.

    ``asked``: how many requests it was to label.
    """
    wrong = [scoring.score(scorer, answer, label) < 1 for answer, label in answers]
    return Judged(
        suite=suite, judge=_digest(judge), asked=asked, labelled=len(wrong), wrong=sum(wrong)
    )


def upper(judged: Judged) -> float:
    """Return the upper 95 % bound of the share of wrong answers among those that the judge calls right.

    It is that of Clopper and Pearson (1934); 1 without labels.
    """
    from scipy.special import betaincinv

    others = judged.labelled - judged.wrong
    return float(betaincinv(judged.wrong + 1, others, 1 - _LEVEL)) if others else 1.0


def problem(judged: Judged, suites: Mapping[str, SuiteKind]) -> str | None:
    """Return why the judge may not label rows under these suites; None: it may."""
    suite = suites.get(judged.suite)
    most = getattr(suite, "harvest_error", None)
    place = f"suites.{judged.suite}"
    judge = getattr(suite, "judge", None)
    if judge is None or most is None:
        return f"{place}: has no harvest_error, so its judge may label no rows"
    if _digest(judge) != judged.judge:
        return f"{place}.judge: is another judge than the one that labelled these rows"
    if (bound := upper(judged)) <= most:
        return None
    # It imports numpy, which `status` and `promote` seldom need.
    from checks.stats.assisted import rows_to_see

    return (
        f"{place}: people say that {judged.wrong} of {judged.labelled} answers that its judge calls right are wrong: "
        f"up to {bound:.1%} may be (95 % bound), and harvest_error is {most:.1%}; with none wrong it needs "
        f"{rows_to_see(most, _LEVEL)} labels"
    )


def _digest(judge: JudgeKind) -> str:
    return digest.of_json(judge.model_dump(mode="json"))
