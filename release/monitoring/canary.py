"""Pairs the captured requests of two releases that share the traffic of an environment.

Each release answered other prompts. So requests are taken in the order in which they arrived, in batches of ``BATCH``
or more that have requests to both releases; a batch ends with the hour, too. In a batch each request to the release
that has fewer gets an equal part of the other's requests, in their order, and that is a pair: at a share of 10 %, one
request to the candidate and about nine to production. The difference of the two means is one observation in [-1, 1].

For quality the requests with labels are paired in the same way, and a request counts only ``monitor.label_hours`` after
it arrived: with the label that came until then. Labels that come sooner for wrong answers than for right ones would
otherwise decide which answers are compared.

Why the e-process of ``checks.stats.anytime`` keeps its level with such pairs: which pairs there are depends on when
requests arrived, which release got them, which prompts repeat, and which have a label after that time, but on no answer
or score. Given all of that, the pairs share no request, so the difference of each has the mean loss of its batch as its
mean, whatever came before, and the number of requests in a pair changes only its variance. While no loss is above the
margin, the wealth is thus a nonnegative supermartingale, and Ville's inequality holds at every look (Waudby-Smith and
Ramdas, 2024, section 3). A look at another time reads a longer or shorter beginning of the same sequence of pairs:
nothing is taken back. What this assumes:

* Requests are given to a release by chance, not by user, region or kind. Then both sides of a pair are drawn from the
  same traffic, whatever changes from batch to batch, and the weights of the releases may change at any time.
* Clients make as many mistakes with one release as with the other, and go away as often. So what was refused (400 to
  499) counts as no answer: a candidate that refuses what production takes, or lets clients wait too long, shows.
* Which requests have a label after ``monitor.label_hours`` does not depend on the release or on what it answered.
* One request does not depend on another. So a prompt counts once, for the release that got it first: that is by chance,
  too. If it counted once for each release, the one with more traffic would run out of common prompts sooner.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime, timedelta
from functools import partial
from itertools import dropwhile, groupby
from typing import NamedTuple

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.captures import LONGEST_REQUEST, Capture
from checks.formats.rollout_report import RolloutReport
from checks.kinds.scorer import Scorer
from release.monitoring import rollout
from release.monitoring.releases import Sides
from release.monitoring.rollout import Pair, SideAnswer
from release.monitoring.store import CaptureStore, GivenLabel
from release.overlay.adapter_component import CANARY

BATCH = 64  # requests; larger batches would save at most 5 % of the labels
_HOUR = timedelta(hours=1)


class CanaryRequest(NamedTuple):
    """The part of a captured request that is kept. ``prompt``: digest of all that the model was told."""

    time: datetime
    id: str
    release: str
    prompt: bytes
    answer: str | None


class Paired(NamedTuple):
    """``pairs`` of answers, and ``scored`` ones. ``evidence``: digest of the requests and labels that were read.

    ``used``, ``waiting``, ``late``, ``alone``: how many labels of these requests are used in pairs, wait for their
    time, came after it, or have no partner.
    """

    pairs: list[Pair]
    scored: list[Pair]
    evidence: str
    used: int
    waiting: int
    late: int
    alone: int


def look(
    params: Params,
    environment: str,
    sides: Sides,
    store: CaptureStore,
    since: datetime,
    now: datetime,
) -> RolloutReport | None:
    """Judge what ``store`` has of both since then; None if the candidate got no request. Nothing is written."""
    production, candidate, runs_in = sides
    captured = store.requests(environment, since, now)
    requests, others = traffic(captured, production, candidate, _drawn_names(params))
    if not requests:
        return None
    judge = partial(rollout.judge, monitor=params.monitor, same_prompts=False)
    labels, scorer = store.first_labels(), params.evaluate.scorers[0]
    wait = timedelta(hours=params.monitor.label_hours)
    paired = pair(requests, labels, candidate, scorer, wait, now)
    judged = judge(paired.pairs, paired.scored)
    before = now - LONGEST_REQUEST
    ended = [request for request in requests if request.time < before]
    settled = judge(*pair(ended, labels, candidate, scorer, wait, before)[:2])
    notes = _notes(len(requests), others, paired, params.monitor.label_hours)
    decision = judged.decision
    if decision == "keep" != settled.decision:
        decision = "go on"
        notes.append(
            "not kept yet: requests of the last hour may still run, and one that hangs is captured at its end"
        )
    return RolloutReport(
        kind="canary", environment=environment, production=production, candidate=candidate, runs_in=runs_in,
        since=requests[0].time, decision=decision, margin=params.monitor.margin,
        alpha=round(1 - params.monitor.confidence, 6),
        evidence=paired.evidence, pairs=len(paired.pairs), labelled=len(paired.scored), agreement=None,
        findings=judged.findings, notes=tuple(notes),
    )  # fmt: skip


def _notes(requests: int, others: int, paired: Paired, hours: float) -> list[str]:
    """Say what was left out, and why."""
    alone = requests - sum(len(side) for both in paired.pairs for side in both)
    notes = (
        (
            alone,
            f"{alone:,} requests repeat a prompt, or have no partner in their hour, or not yet",
        ),
        (
            others,
            f"{others:,} requests to other releases, or to a model by another name, are left out",
        ),
        (
            paired.waiting,
            f"{paired.waiting:,} labels wait: one counts {hours:g} h after its request (monitor.label_hours)",
        ),
        (
            paired.late,
            (
                f"{paired.late:,} labels are left out: they came more than {hours:g} h after their requests. If right "
                "answers are labelled later than wrong ones, quality is not known: raise monitor.label_hours"
            ),
        ),
        (
            paired.alone > paired.used,
            (
                f"few labels are used: {paired.used:,} of {paired.used + paired.alone:,}. The others repeat a prompt, "
                "or have no partner in their hour, or not yet: label more requests, or give the candidate a "
                "larger share"
            ),
        ),
    )
    return [note for applies, note in notes if applies]


def why(report: RolloutReport) -> str:
    """Return the reason of the rollback that ``report`` decides."""
    reasons = [
        f"{finding.name}: {finding.reason}"
        for finding in report.findings
        if finding.status == "fail"
    ]
    return f"canary of {report.environment} against {report.production}, {report.evidence[:19]}…: {'; '.join(reasons)}"


def _drawn_names(params: Params) -> Set[str | None]:
    """Return what answers call an adapter whose requests were drawn; empty: every request to a model was.

    A client that names an adapter by its digest gets that release by choice.
    """
    name = params.serve.name
    return {None, name, f"{name}{CANARY}"} if params.merge.form == "adapter" else set()


def traffic(
    captured: Iterable[Capture],
    production: str,
    candidate: str,
    names: Set[str | None] = frozenset(),
) -> tuple[list[CanaryRequest], int]:
    """Return the requests to both releases since the first to the candidate, in order of arrival.

    A request stored twice counts once. The number is that of the requests to other releases, or to a model of another
    name than ``names``, if there are any.
    """
    once, others = dict[tuple[datetime, str], CanaryRequest](), 0
    for request in captured:
        if request.release not in (production, candidate) or (names and request.model not in names):
            others += 1
            continue
        whole = request.error is None and request.status < 400
        prompt = "\n".join(message.text for message in request.input_messages)
        once[request.time, request.request_id] = CanaryRequest(
            request.time, request.request_id, request.release, hashlib.sha256(prompt.encode()).digest(),
            request.answer if whole else None,
        )  # fmt: skip
    requests = [once[key] for key in sorted(once)]
    return list(dropwhile(lambda request: request.release != candidate, requests)), others


def pair(
    requests: Sequence[CanaryRequest],
    labels: Mapping[str, GivenLabel],
    candidate: str,
    scorer: Scorer,
    wait: timedelta,
    now: datetime,
) -> Paired:
    """Pair ``requests``, which are in order of arrival, and those of them whose label came within ``wait``.

    A label whose id two requests have is not used.
    """
    ids = Counter(request.id for request in requests)
    hasher, labelled = hashlib.sha256(), list[tuple[CanaryRequest, SideAnswer]]()
    waiting = late = 0
    for request in requests:
        given = labels.get(request.id)
        hasher.update(f"{request!r}{given!r}\n".encode())
        if given is None or request.answer is None or ids[request.id] > 1:
            continue
        closes = request.time + wait
        if closes > now:
            waiting += 1
        elif given.stored > closes:
            late += 1
        else:
            labelled.append(
                (
                    request,
                    SideAnswer(request.answer, scoring.score(scorer, request.answer, given.label)),
                )
            )
    scored = _pairs(labelled, candidate, now - wait)
    used = sum(len(side) for both in scored for side in both)
    return Paired(
        _pairs([(request, SideAnswer(request.answer)) for request in requests], candidate, now), scored,
        f"sha256:{hasher.hexdigest()}", used, waiting, late, len(labelled) - used,
    )  # fmt: skip


def _pairs(
    sides: Sequence[tuple[CanaryRequest, SideAnswer]], candidate: str, until: datetime
) -> list[Pair]:
    """Return the pairs of the batches that are complete, or whose hour ended before ``until``."""
    seen, pairs = set[bytes](), list[Pair]()
    for hour, group in groupby(
        sides, key=lambda side: side[0].time.replace(minute=0, second=0, microsecond=0)
    ):
        ours, theirs = list[SideAnswer](), list[SideAnswer]()
        for request, side in group:
            if request.prompt in seen:
                continue
            seen.add(request.prompt)
            (theirs if request.release == candidate else ours).append(side)
            if ours and theirs and len(ours) + len(theirs) >= BATCH:
                pairs += _dealt(ours, theirs)
                ours, theirs = [], []
        if hour + _HOUR <= until:
            pairs += _dealt(ours, theirs)
    return pairs


def _dealt(ours: Sequence[SideAnswer], theirs: Sequence[SideAnswer]) -> list[Pair]:
    """Pairs that use every side once; none if a release has no request."""
    count = min(len(ours), len(theirs))
    return [
        Pair(_part(ours, number, count), _part(theirs, number, count)) for number in range(count)
    ]


def _part(sides: Sequence[SideAnswer], number: int, count: int) -> Sequence[SideAnswer]:
    """Part ``number`` of ``count`` about equal ones."""
    return sides[number * len(sides) // count : (number + 1) * len(sides) // count]
