"""One window of an environment's traffic: its times, the requests to one release, and the labels that came for them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from checks.evaluation import scoring
from checks.formats.captures import Capture
from checks.kinds.scorer import Scorer
from checks.process.errors import EvidenceRefused
from release.monitoring.answers import ScoredAnswer
from release.monitoring.releases import short
from release.monitoring.store import CaptureStore

EARLIER = 8  # windows before one, that it is compared with
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
_BLOCK = 3  # hours: requests of a block may depend on one another, where no key tells users apart
_KEYED = 0.95  # share of the requests that must have a user's key


class TimeSpan(NamedTuple):
    """From ``since`` up to ``until``, which is excluded."""

    since: datetime
    until: datetime


class Traffic(NamedTuple):
    """The requests to one release, in order of time. ``labels``: by request id. ``notes``: what was left out.

    ``share``: its part of the tokens of all requests, by which releases on one server share what that costs.
    ``waiting``: ids of requests with a label that does not count yet.
    """

    requests: tuple[Capture, ...]
    labels: dict[str, str]
    notes: tuple[str, ...]
    share: float = 1.0
    waiting: frozenset[str] = frozenset()

    @property
    def keyed(self) -> bool:
        """Tell whether keys tell which requests are of one user."""
        return sum(request.user_key is not None for request in self.requests) >= _KEYED * len(
            self.requests
        )

    @property
    def digest(self) -> str:
        """Return the digest of every request and label."""
        hasher = hashlib.sha256()
        for request in self.requests:
            label = self.labels.get(request.request_id)
            hasher.update(f"{request.model_dump_json()}\n{label!r}\n".encode())
        return f"sha256:{hasher.hexdigest()}"


def last_whole(now: datetime, days: int) -> TimeSpan:
    """The last window of ``days`` days that has ended. Windows follow one another without a gap or an overlap."""
    length = timedelta(days=days)
    until = _MONDAY + (now - _MONDAY) // length * length
    return TimeSpan(until - length, until)


def read(
    store: CaptureStore,
    environment: str,
    span: TimeSpan,
    model: str,
    now: datetime,
    label_hours: float,
) -> Traffic:
    """Return the traffic of the release ``model`` (its digest). Raises EvidenceRefused if there is none.

    A label counts from ``label_hours`` after its request on. Users report wrong answers at once, and what shows that an
    answer was right may take days. So among the labels of younger requests there are too many of wrong answers.
    """
    requests, others, share = _requests(store, environment, span, model)
    notes = [
        f"{count:,} requests to another release are left out: {name}"
        for name, count in others.most_common(5)
    ]
    if not requests:
        when = f"{span.since:%Y-%m-%d %H:%M} to {span.until:%Y-%m-%d %H:%M} UTC"
        was = f" (there are {notes[0]})" if notes else ""
        raise EvidenceRefused(
            f"{store.shown}: no request to release {short(model)} of {environment} from {when}{was}",
            "name the gateway's folder with --captures, or another time with --from and --to",
        )
    labels, more = labels_of(store, Counter(request.request_id for request in requests))
    newest = now - timedelta(hours=label_hours)
    young = {request.request_id for request in requests if request.time > newest}
    waiting = young & labels.keys()
    if waiting:
        more.append(
            f"{len(waiting):,} labels wait: one counts {label_hours:g} h after its request (monitor.label_hours)"
        )
    counting = {name: label for name, label in labels.items() if name not in waiting}
    return Traffic(requests, counting, (*notes, *more), share, frozenset(waiting))


def earlier(store: CaptureStore, environment: str, span: TimeSpan, model: str) -> list[Traffic]:
    """Return the traffic of the same release in the windows before ``span`` that have some, without labels.

    Latest first.
    """
    length = span.until - span.since
    spans = (
        TimeSpan(span.since - number * length, span.until - number * length)
        for number in range(1, EARLIER + 1)
    )
    windows = (_requests(store, environment, before, model)[0] for before in spans)
    return [Traffic(requests, {}, ()) for requests in windows if requests]


def _requests(
    store: CaptureStore, environment: str, span: TimeSpan, model: str
) -> tuple[tuple[Capture, ...], Counter[str], float]:
    """Return the requests to a release, each once and in order of time, how many others got, and its ``share``."""
    once, others = dict[tuple[datetime, str], Capture](), Counter[str]()
    tokens_of_others = dict[tuple[datetime, str], float]()
    for request in store.requests(environment, *span):
        key = request.time, request.request_id
        if request.release == short(model):
            once[key] = request
        else:
            others[request.release or "of no named release"] += 1
            tokens_of_others[key] = _tokens(request)
    tokens = sum(map(_tokens, once.values()))
    share = tokens / (tokens + sum(tokens_of_others.values()) or 1)
    return tuple(once[key] for key in sorted(once)), others, share


def _tokens(request: Capture) -> float:
    """Return the tokens for which a captured row stands: at least one for each request."""
    return (
        max(1, (request.input_tokens or 0) + (request.output_tokens or 0)) / request.sampled_share
    )


def labels_of(store: CaptureStore, ids: Mapping[str, int]) -> tuple[dict[str, str], list[str]]:
    """Return the labels of requests. An id of two requests, or with two labels, names neither.

    ``ids``: how many requests have the id.
    """
    given = defaultdict[str, set[str]](set)
    for label in store.labels():
        if label.request_id in ids:
            given[label.request_id].add(label.label)
    unclear = [name for name, labels in given.items() if len(labels) > 1 or ids[name] > 1]
    clear = {name: next(iter(labels)) for name, labels in given.items() if name not in unclear}
    note = f"{len(unclear):,} labels are left out: two for one request, or an id of two requests"
    return clear, [note] if unclear else []


def answered(traffic: Traffic, scorer: Scorer | None) -> list[ScoredAnswer]:
    """Return the requests with a whole answer, scored by ``scorer`` where their label came.

    The group of each is its user, or the block of hours in which it arrived.
    """
    answers = list[ScoredAnswer]()
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
        answers.append(ScoredAnswer(request.request_id, prompt, request.answer, group, score))
    return answers
