"""Pairs the captured requests of two releases that share the traffic of an environment.

Each release answered other prompts, so a pair is a request to each, of the same hour. Within the hour they are paired
in the order in which they became known: by arrival; for quality, by the arrival of their labels. So pairs are never
taken back when more becomes known, which a test that is looked at again and again needs. What this assumes:

* Requests are given to a release by chance, not by user, region or kind. Then both sides of a pair are drawn from the
  same traffic, whatever changes from hour to hour, and the weights of the releases may change at any time.
* Clients make as many mistakes with one release as with the other, and go away as often. So what was refused (400 to
  499) counts as no answer: a candidate that refuses what production takes, or lets clients wait too long, shows.
* Which requests get labels does not depend on the release or on what it answered.
* One request does not depend on another. So a prompt counts once, for the release that got it first: that is by chance,
  too. If it counted once for each release, the one with more traffic would run out of common prompts sooner.
"""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.captures import LONGEST_REQUEST, Capture
from checks.formats.rollout_report import RolloutReport
from checks.scorers import Scorer
from release.monitoring import rollout
from release.monitoring.releases import Sides
from release.monitoring.rollout import Asks, Pair, Side
from release.monitoring.store import Store


class Request(NamedTuple):
    """What is kept of a captured request. ``prompt``: digest of all that the model was told."""

    time: datetime
    id: str
    release: str
    prompt: bytes
    answer: str | None


class Traffic(NamedTuple):
    """The requests to both releases since the first to the candidate, in order of arrival.

    ``others``: how many requests went to another release.
    """

    requests: tuple[Request, ...]
    others: int


class Paired(NamedTuple):
    """``pairs`` of answers, and ``scored`` ones. ``evidence``: digest of the requests and labels that were read."""

    pairs: list[Pair]
    scored: list[Pair]
    evidence: str


def look(
    params: Params, environment: str, sides: Sides, store: Store, since: datetime, now: datetime
) -> RolloutReport | None:
    """Judge what ``store`` has of both since then; None if the candidate got no request. Nothing is written."""
    production, candidate, runs_in = sides
    found = traffic(store.requests(environment, since, now), production, candidate)
    if not found.requests:
        return None
    asks = Asks.of(params.monitor, same_prompts=False)
    labels, scorer = store.first_labels(), params.evaluate.scorers[0]
    pairs, scored, evidence = pair(found.requests, labels, candidate, scorer)
    judged = rollout.judge(pairs, scored, asks)
    ended = [each for each in found.requests if each.time < now - LONGEST_REQUEST]
    settled = rollout.judge(*pair(ended, labels, candidate, scorer)[:2], asks)
    alone = len(found.requests) - 2 * len(pairs)
    notes = [f"{alone:,} requests have no partner in their hour, or repeat a prompt"] if alone else []
    if found.others:
        notes.append(f"{found.others:,} requests to other releases are left out")
    decision = judged.decision
    if decision == "keep" != settled.decision:
        decision = "go on"
        notes.append("not kept yet: requests of the last hour may still run, and one that hangs is captured at its end")
    return RolloutReport(
        kind="canary", environment=environment, production=production, candidate=candidate, runs_in=runs_in,
        since=found.requests[0].time, decision=decision, margin=asks.margin, alpha=round(asks.alpha, 6),
        evidence=evidence, pairs=len(pairs), labelled=len(scored), agreement=None, findings=judged.findings,
        notes=tuple(notes),
    )  # fmt: skip


def why(report: RolloutReport) -> str:
    """The reason of the rollback that ``report`` decides."""
    reasons = [f"{each.name}: {each.reason}" for each in report.findings if each.status == "fail"]
    return f"canary of {report.environment} against {report.production}, {report.evidence[:19]}…: {'; '.join(reasons)}"


def traffic(captured: Iterable[Capture], production: str, candidate: str) -> Traffic:
    """What counts of ``captured``; empty without a request to the candidate. A request stored twice counts once."""
    found, others = dict[tuple[datetime, str], Request](), 0
    for each in captured:
        if each.release not in (production, candidate):
            others += 1
            continue
        whole = each.error is None and each.status < 400
        prompt = "\n".join(message.text for message in each.input_messages)
        found[each.time, each.request_id] = Request(
            each.time, each.request_id, each.release, hashlib.sha256(prompt.encode()).digest(),
            each.answer if whole else None,
        )  # fmt: skip
    requests = [found[key] for key in sorted(found)]
    first = next((number for number, each in enumerate(requests) if each.release == candidate), len(requests))
    return Traffic(tuple(requests[first:]), others)


def pair(requests: Iterable[Request], labels: dict[str, str], candidate: str, scorer: Scorer) -> Paired:
    """Pair ``requests``, and those of them with a label. ``labels``: by request id, in the order in which they came.

    A label whose id two requests have is not used.
    """
    ordered = list(requests)
    ids = Counter(each.id for each in ordered)
    named = {each.id: each for each in ordered if ids[each.id] == 1}
    hasher = hashlib.sha256()
    for each in ordered:
        hasher.update(f"{each!r}{labels.get(each.id)!r}\n".encode())
    labelled = [
        (named[name], Side(answer, scoring.score(scorer, answer, label)))
        for name, label in labels.items()
        if name in named and (answer := named[name].answer) is not None
    ]
    return Paired(
        _match(((each, Side(each.answer)) for each in ordered), candidate), _match(labelled, candidate),
        f"sha256:{hasher.hexdigest()}",
    )  # fmt: skip


def _match(sides: Iterable[tuple[Request, Side]], candidate: str) -> list[Pair]:
    """Pair each side with the first of the other release that waits in its hour."""
    waiting = defaultdict[tuple[datetime, bool], deque[Side]](deque)
    seen, found = set[bytes](), list[Pair]()
    for request, side in sides:
        if request.prompt in seen:
            continue
        seen.add(request.prompt)
        ours = request.release == candidate
        hour = request.time.replace(minute=0, second=0, microsecond=0)
        if others := waiting[hour, not ours]:
            other = others.popleft()
            found.append(Pair(other, side) if ours else Pair(side, other))
        else:
            waiting[hour, ours].append(side)
    return found
