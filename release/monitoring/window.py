"""One window of an environment's traffic: its times, the requests to one release, and the labels that came for them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from checks.evaluation import scoring
from checks.formats.captures import Capture
from checks.kinds.scorer import Scorer
from checks.process.errors import EvidenceRefused
from release.monitoring.answers import Answered
from release.monitoring.store import Store

EARLIER = 8  # windows before one, that it is compared with
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
_BLOCK = 3  # hours: requests of a block may depend on one another, where no key tells users apart
_KEYED = 0.95  # share of the requests that must have a user's key


class Span(NamedTuple):
    """From ``since`` up to ``until``, which is excluded."""

    since: datetime
    until: datetime


class Traffic(NamedTuple):
    """The requests to one release, in order of time. ``labels``: by request id. ``notes``: what was left out."""

    requests: tuple[Capture, ...]
    labels: dict[str, str]
    notes: tuple[str, ...]

    @property
    def keyed(self) -> bool:
        """Whether keys tell which requests are of one user."""
        return sum(request.user_key is not None for request in self.requests) >= _KEYED * len(
            self.requests
        )

    @property
    def digest(self) -> str:
        """Of every request and label."""
        hasher = hashlib.sha256()
        for request in self.requests:
            label = self.labels.get(request.request_id)
            hasher.update(f"{request.model_dump_json()}\n{label!r}\n".encode())
        return f"sha256:{hasher.hexdigest()}"


def last_whole(now: datetime, days: int) -> Span:
    """The last window of ``days`` days that has ended. Windows follow one another without a gap or an overlap."""
    length = timedelta(days=days)
    until = _MONDAY + (now - _MONDAY) // length * length
    return Span(until - length, until)


def read(store: Store, environment: str, span: Span, model: str) -> Traffic:
    """The traffic of the release ``model`` (its digest). Raises EvidenceRefused if there is none."""
    short, others, seen = (
        model.removeprefix("sha256:")[:12],
        Counter[str](),
        dict[tuple[str, datetime], Capture](),
    )
    for request in store.requests(environment, *span):
        if request.release == short:
            seen[request.request_id, request.time] = request
        else:
            others[request.release or "of no named release"] += 1
    notes = [
        f"{count:,} requests to another release are left out: {name}"
        for name, count in others.most_common(5)
    ]
    if not seen:
        when = f"{span.since:%Y-%m-%d %H:%M} to {span.until:%Y-%m-%d %H:%M} UTC"
        was = f" (there are {notes[0]})" if notes else ""
        raise EvidenceRefused(
            f"{store.shown}: no request to release {short} of {environment} from {when}{was}",
            "name the gateway's folder with --captures, or another time with --from and --to",
        )
    requests = tuple(sorted(seen.values(), key=lambda each: (each.time, each.request_id)))
    labels, more = _labels(store, requests)
    return Traffic(requests, labels, (*notes, *more))


def earlier(store: Store, environment: str, span: Span, model: str) -> list[Traffic]:
    """The traffic of the same release in the windows before ``span`` that have some, without labels. Latest first."""
    short, length, windows = (
        model.removeprefix("sha256:")[:12],
        span.until - span.since,
        list[Traffic](),
    )
    for number in range(1, EARLIER + 1):
        seen = store.requests(
            environment, span.since - number * length, span.until - number * length
        )
        once = {
            (request.time, request.request_id): request
            for request in seen
            if request.release == short
        }
        if once:
            windows.append(Traffic(tuple(once[key] for key in sorted(once)), {}, ()))
    return windows


def _labels(store: Store, requests: Sequence[Capture]) -> tuple[dict[str, str], list[str]]:
    """The labels of these requests. An id of two requests, or with two labels, names neither."""
    ids, given = (
        Counter(request.request_id for request in requests),
        defaultdict[str, set[str]](set),
    )
    for label in store.labels():
        if label.request_id in ids:
            given[label.request_id].add(label.label)
    unclear = [name for name, labels in given.items() if len(labels) > 1 or ids[name] > 1]
    notes = (
        [f"{len(unclear):,} labels are left out: two for one request, or an id of two requests"]
        if unclear
        else []
    )
    return {
        name: next(iter(labels)) for name, labels in given.items() if name not in unclear
    }, notes


def answered(traffic: Traffic, scorer: Scorer | None) -> list[Answered]:
    """The requests with a whole answer, scored by ``scorer`` where their label came.

    The group of each is its user, or the block of hours in which it arrived.
    """
    answers = list[Answered]()
    for request in traffic.requests:
        if request.error is not None or request.status >= 400 or request.answer is None:
            continue
        prompt = "\n".join(message.text for message in request.input_messages)
        label = traffic.labels.get(request.request_id)
        score = (
            None
            if label is None or scorer is None
            else scoring.score(scorer, request.answer, label)
        )
        group = request.user_key or f"{request.time:%Y-%m-%d} {request.time.hour // _BLOCK}"
        answers.append(Answered(request.request_id, prompt, request.answer, group, score))
    return answers
