"""Chooses the captured requests that become rows of training or of a test split, and counts why others do not.

A row is a request with a whole answer, and the label that says what the answer should have been. Each request is
refused for the first reason that applies, in the order of ``REASONS``.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from checks.config.pipeline_params import NearDuplicates, Prepare
from checks.data import contamination, detectors, near_duplicates
from checks.data.personal_data import PersonalData
from checks.data.similar import normalised
from checks.evaluation import judge_error
from checks.formats.captures import Capture, Release
from checks.formats.harvest import HarvestedRow, Judged, request_digest
from checks.records.rows import Message, Row, earlier_requests, request
from release.monitoring import window
from release.monitoring.harvest_judge import HarvestJudge
from release.monitoring.harvest_splits import Splits
from release.monitoring.store import CaptureStore
from release.monitoring.window import TimeSpan

REASONS = {
    "erased": "the person's request was erased",
    "unclear": "two labels, or two requests with one id",
    "no chat": "no whole answer, or the prompt is not text of a system and of user and assistant in turn",
    "unreadable": "an empty text, or control characters in one",
    "personal": "personal data or a secret in the prompt or the label",
    "held out": "equal or nearly equal to a row that tests the model",
    "known": "equal or nearly equal to a train row of another source",
    "contradicted": "the same request has another label elsewhere",
    "repeated": "the same request and label are a row already",
    "not drawn": "left out at random, as the test split has rows enough",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ASKED_BY = 5  # A request of so many users may be shown: it is nobody's own.
_EXAMPLES = 5
_ALWAYS = TimeSpan(datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))


class Harvested(NamedTuple):
    """The rows, and counts. ``examples``: requests that at least five users sent, with their labels.

    ``by_judge``: the ids of the rows that a judge labelled. ``judged``: None: no judge was asked.
    """

    rows: tuple[HarvestedRow, ...]
    requests: int
    labelled: int
    refused: dict[str, int]
    as_answered: int
    examples: tuple[tuple[str, str], ...]
    judged: Judged | None = None
    by_judge: frozenset[str] = frozenset()


class Draw(NamedTuple):
    """How many rows of a test split are drawn at random, and the seed."""

    rows: int
    seed: int

    def first(self, candidates: Sequence["_Candidate"]) -> Sequence["_Candidate"]:
        """Return the candidates with the smallest hashes. More requests of other ids move few rows."""
        start = f"{self.seed}:test:"
        return sorted(
            candidates,
            key=lambda candidate: hashlib.sha256(f"{start}{candidate.row.id}".encode()).digest(),
        )[: self.rows]


class _Candidate(NamedTuple):
    """A labelled request. ``texts``: the requests that its chat answers, without system messages; the last first."""

    capture: Capture
    label: str
    row: HarvestedRow
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return what two equal requests share."""
        return normalised(self.texts[0])

    @property
    def chat(self) -> Sequence[Message]:
        """Return the request with the answer that the model gave."""
        return *self.row.messages[:-1], Message(role="assistant", content=self.capture.answer or "")


def choose(
    store: CaptureStore,
    environment: str,
    span: TimeSpan,
    splits: Splits,
    prepare: Prepare,
    erased: Collection[str],
    draw: Draw | None = None,
    judge: HarvestJudge | None = None,
) -> Harvested:
    """Return the rows of the requests that arrived in ``span``. Raises EvidenceRefused if a file cannot be read.

    ``draw``: None: all rows, for training. ``judge``: labels requests that people did not; None: nobody does.

    ``prepare`` defines near-duplicates and personal data; without its section every detector looks. ``erased``: digests
    of ids of requests. Raises as ``HarvestJudge.right``.
    """
    given = {label.request_id for label in store.labels()}
    # An id that a client chose again, at another time, names no request, so all times count.
    arrived = set[tuple[datetime, str]]()
    kept_requests = dict[tuple[datetime, str], Capture]()
    for capture in store.requests(environment, *_ALWAYS):
        key = capture.time, capture.request_id
        arrived.add(key)
        if span.since <= capture.time < span.until and (judge or capture.request_id in given):
            kept_requests[key] = capture
    captures = [kept_requests[key] for key in sorted(kept_requests)]
    ids = Counter(name for _, name in arrived)
    labels, _ = window.labels_of(store, ids)
    refused = Counter[str]()
    labelled = [capture for capture in captures if capture.request_id in given]
    candidates = _usable(labelled, labels, refused, splits, prepare, erased)
    single = list(_single(candidates, refused))
    kept = draw.first(single) if draw else single
    refused["not drawn"] = len(single) - len(kept)
    judged: Judged | None = None
    rows = list(kept)
    if judge:
        unlabelled = [
            capture
            for capture in captures
            if capture.request_id not in given and ids[capture.request_id] == 1
        ]
        answers = {capture.request_id: capture.answer or "" for capture in unlabelled}
        asked = _usable(unlabelled, answers, Counter(), splits, prepare, erased)
        judged, more = _judged(judge, single, asked, {candidate.key for candidate in candidates})
        rows += more
    return Harvested(
        rows=tuple(candidate.row for candidate in rows),
        requests=sum(span.since <= time < span.until for time, _ in arrived), labelled=len(labelled),
        refused={reason: refused[reason] for reason in REASONS if refused[reason]},
        as_answered=sum(candidate.label.strip() == (candidate.capture.answer or "").strip() for candidate in rows),
        examples=tuple(_examples(kept, candidates)), judged=judged,
        by_judge=frozenset(candidate.row.id for candidate in rows[len(kept) :]),
    )  # fmt: skip


def _usable(
    captures: Sequence[Capture], labels: Mapping[str, str], refused: Counter[str],
    splits: Splits, prepare: Prepare, erased: Collection[str],
) -> list[_Candidate]:  # fmt: skip
    """Return the requests that can be rows with these labels, and count the others in ``refused``."""
    personal = prepare.personal_data or PersonalData(detectors=detectors.KINDS)
    candidates = list[_Candidate]()
    for capture in captures:
        candidate = _candidate(capture, labels.get(capture.request_id))
        reason = _refused(capture, labels, candidate, personal, erased)
        if reason:
            refused[reason] += 1
        elif candidate is not None:
            candidates.append(candidate)
    for reason, rows in (("held out", splits.held_out), ("known", splits.train)):
        alike = _alike(candidates, rows, prepare.near_duplicates)
        refused[reason] += len(alike)
        candidates = [candidate for place, candidate in enumerate(candidates) if place not in alike]
    return candidates


def _judged(
    judge: HarvestJudge, people: Sequence[_Candidate], asked: Sequence[_Candidate], known: Collection[str]
) -> tuple[Judged, list[_Candidate]]:  # fmt: skip
    """Return the error of the judge on the requests that people labelled, and the ``asked`` ones that it labels.

    ``known``: keys of requests with people's labels. These count, and never a judge's.
    """
    new = [candidate for candidate in asked if candidate.key not in known]
    right = judge.right({candidate.row.id: candidate.chat for candidate in (*people, *new)})
    checked = _one_a_user([candidate for candidate in people if candidate.row.id in right])
    answers = [(candidate.capture.answer or "", candidate.label) for candidate in checked]
    judged = judge_error.measure(judge.name, judge.suite.judge, judge.scorer, len(new), answers)
    accepted = [candidate for candidate in new if candidate.row.id in right]
    return judged, [*_single(accepted, Counter())]


def _one_a_user(candidates: Sequence[_Candidate]) -> Sequence[_Candidate]:
    """Return the candidate of each user with the smallest id: a bound counts requests that are alike once.

    Without the keys of users (`lockstep gateway --user-secret`) each request is somebody's own.
    """
    backwards = sorted(candidates, key=lambda candidate: candidate.row.id, reverse=True)
    return [
        *{
            candidate.capture.user_key or candidate.row.id: candidate for candidate in backwards
        }.values()
    ]


def _refused(
    capture: Capture, labels: Mapping[str, str], candidate: _Candidate | None,
    personal: PersonalData, erased: Collection[str],
) -> str:  # fmt: skip
    """Return the reason why a request cannot be a row, whatever other rows there are; empty if it can."""
    if request_digest(capture.request_id) in erased:
        return "erased"
    if capture.request_id not in labels:
        return "unclear"
    if candidate is None:
        return "no chat"
    texts = [message.content for message in candidate.row.messages]
    if any(not text.strip() or _CONTROL.search(text) for text in texts):
        return "unreadable"
    return "personal" if any(personal.find(text) for text in texts) else ""


def _candidate(capture: Capture, label: str | None) -> _Candidate | None:
    """Return the request as a row; None if it was not answered, or is no chat of texts."""
    messages_sent = capture.input_messages
    roles = [message.role for message in messages_sent]
    asked = roles[1:] if roles[:1] == ["system"] else roles
    in_turn = [("user", "assistant")[place % 2] for place in range(len(asked))]
    is_text = all(part.type == "text" for message in messages_sent for part in message.parts)
    is_whole = capture.error is None and capture.status < 400 and capture.answer is not None
    if label is None or not is_whole or not is_text or len(asked) % 2 == 0 or asked != in_turn:
        return None
    prompt = [
        Message.model_validate({"role": message.role, "content": message.text})
        for message in messages_sent
    ]
    row = HarvestedRow(
        id=request_digest(capture.request_id), messages=(*prompt, Message(role="assistant", content=label)),
        environment=capture.environment, release=capture.release,
    )  # fmt: skip
    return _Candidate(capture, label, row, (request(prompt), *earlier_requests(prompt)))


def _alike(candidates: Sequence[_Candidate], rows: Sequence[Row], near: NearDuplicates) -> set[int]:
    """Return the places of candidates with a request like one of ``rows``.

    Alike are near-duplicates, as prepare defines them, and texts with the same words, whatever stands between them.
    """
    texts = [
        (place, text) for place, candidate in enumerate(candidates) for text in candidate.texts
    ]
    known = [request(row.messages) for row in rows]
    if not texts or not known:
        return set()
    words = {contamination.words(text) for text in known}
    pairs = near_duplicates.first_alike(
        [text for _, text in texts], known, near.shingle, near.similarity
    )
    alike = {texts[index][0] for index, _ in pairs}
    return alike | {place for place, text in texts if contamination.words(text) in words}


def _single(candidates: Sequence[_Candidate], refused: Counter[str]) -> Iterator[_Candidate]:
    """Yield one candidate for each request. None of a request with several labels is left."""
    same = defaultdict[str, list[_Candidate]](list)
    for candidate in candidates:
        same[candidate.key].append(candidate)
    for alike in same.values():
        if len({candidate.label.strip() for candidate in alike}) > 1:
            refused["contradicted"] += len(alike)
            continue
        refused["repeated"] += len(alike) - 1
        yield min(alike, key=lambda candidate: candidate.row.id)


def _examples(
    kept: Sequence[_Candidate], candidates: Sequence[_Candidate]
) -> Iterator[tuple[str, str]]:
    """Yield requests that at least five users of one release sent, chosen by a hash.

    Without the keys of users (`lockstep gateway --user-secret`) nobody knows how many sent one, so none is shown. A key
    is of a user and a release, so that one user has several.
    """
    users = defaultdict[tuple[str, Release | None], set[str]](set)
    for candidate in candidates:
        if candidate.capture.user_key:
            users[candidate.key, candidate.capture.release].add(candidate.capture.user_key)
    common_keys = {key for (key, _), keys in users.items() if len(keys) >= _ASKED_BY}
    common = sorted(
        (candidate for candidate in kept if candidate.key in common_keys),
        key=lambda candidate: hashlib.sha256(candidate.row.id.encode()).digest(),
    )
    for candidate in common[:_EXAMPLES]:
        yield candidate.texts[0], candidate.label
