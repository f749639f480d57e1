"""Asks both releases, and keeps the pairs in a file, so that a run that was stopped goes on.

The file is .lockstep/shadow/ENV/PRODUCTION-CANDIDATE.jsonl, where both are releases. It has a JSON object a line,
appended when both servers have answered. Texts are redacted. Scores are not stored: labels may come later. An example:

{"time": "2026-11-26T16:20:00Z", "arrived": "2026-11-24T09:02:11Z", "request_id": "3f1c…", "prompt": "sha256:…",
"production": {"answer": "az group list", "error": null, "seconds": 0.31}, "candidate": {"answer": null, "error":
"HTTP 500: “out of memory”", "seconds": 0.02}}
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import AwareDatetime, ValidationError

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats import captures
from checks.formats.rollout_report import RolloutReport
from checks.formats.serving import Seconds
from checks.kinds.scorer import Scorer
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.records.record import Digest
from checks.records.rows import Message, Record
from checks.storage import digest, files
from release.monitoring import rollout
from release.monitoring.releases import Sides
from release.monitoring.rollout import Pair, SideAnswer
from release.monitoring.store import GivenLabel
from release.overlay.adapter_component import CANARY

_ROLES = ("system", "user", "assistant")


class Prompt(NamedTuple):
    """A prompt that was captured. ``digest``: of its messages. ``arrived``: when production got it."""

    request_id: str
    arrived: datetime
    digest: str
    messages: tuple[Message, ...]


class ShadowAnswer(Record):
    """The redacted answer of a server; or None, and why not."""

    answer: str | None
    error: str | None
    seconds: Seconds


class ShadowPair(Record):
    """One line of the file. ``arrived``: when production got the prompt."""

    time: AwareDatetime
    arrived: AwareDatetime
    request_id: captures.Name
    prompt: Digest
    production: ShadowAnswer
    candidate: ShadowAnswer


def prompts(requests: Iterable[captures.Capture]) -> tuple[list[Prompt], int]:
    """Return the different prompts in the order of their requests' hashes, and how many requests cannot be sent again.

    So the first of them are a sample drawn by chance, the same for every run. Mistakes of a client, calls of tools,
    and what has other parts than text cannot be sent.
    """
    by_digest, left_out = dict[str, Prompt](), 0
    for request in sorted(
        requests, key=lambda request: hashlib.sha256(request.request_id.encode()).digest()
    ):
        if (messages := _messages(request)) is None:
            left_out += 1
            continue
        name = digest.of_json([message.model_dump() for message in messages])
        by_digest.setdefault(name, Prompt(request.request_id, request.time, name, messages))
    return list(by_digest.values()), left_out


def of_adapter(
    requests: Iterable[captures.Capture], name: str, sides: Sides
) -> Iterator[captures.Capture]:
    """Yield the requests for the adapter ``name``, its canary or a release of it, on a server with others, too."""
    names = re.compile(rf"{re.escape(name)}({CANARY}|(?:{CANARY})?-[0-9a-f]{{12}})?")
    for request in requests:
        # A server that was not reached has named no model.
        if names.fullmatch(request.model) if request.model else request.release in sides:
            yield request


def _messages(request: captures.Capture) -> tuple[Message, ...] | None:
    mistake = 400 <= request.status < 500 and request.status not in (429, 499)
    messages = request.input_messages
    if request.operation != "chat" or mistake or not messages or messages[-1].role != "user":
        return None
    if any(
        message.role not in _ROLES or any(part.type != "text" for part in message.parts)
        for message in messages
    ):
        return None
    return tuple(
        Message.model_validate({"role": message.role, "content": message.text})
        for message in messages
    )


class PairFile:
    """The file of pairs, which one run writes at a time. ``pairs``: one for each prompt, the first."""

    def __init__(self, path: Path) -> None:
        """Read it. Raises EvidenceRefused with the line that is no pair, MachineRefused if another run writes it."""
        self.pairs: list[ShadowPair] = []
        self.asked: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            todo = "wait until it ends, or stop it"
            raise MachineRefused(
                f"{path}: another `lockstep shadow` of these releases runs", todo
            ) from error
        self._stream.seek(0)
        data = self._stream.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # the last line broke off: its run was killed
            self._stream.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                pair = ShadowPair.model_validate_json(line)
            except ValidationError as error:
                todo = "delete the file, and the run begins anew"
                raise EvidenceRefused(f"{path}:{number}: {files.first(error)}", todo) from error
            self._take(pair)

    def add(self, pair: ShadowPair) -> None:
        """Append a pair; it is on the disk afterwards."""
        self._stream.write(pair.model_dump_json().encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._take(pair)

    def close(self) -> None:
        """Let another run write the file."""
        self._stream.close()

    def _take(self, pair: ShadowPair) -> None:
        if pair.prompt not in self.asked:
            self.asked.add(pair.prompt)
            self.pairs.append(pair)


def judged(
    pairs: Sequence[ShadowPair],
    labels: Mapping[str, GivenLabel],
    scorer: Scorer,
    wait: timedelta,
    now: datetime,
) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs, and those of them in which both answers have a score.

    A label counts as in a canary: ``wait`` after its request arrived, if it came until then. Otherwise labels that come
    sooner for production's wrong answers would make the candidate look better than it is.
    """
    both, scored = list[Pair](), list[Pair]()
    for pair in pairs:
        given, closes = labels.get(pair.request_id), pair.arrived + wait
        label = given.label if given is not None and given.stored <= closes <= now else None
        sides = [_side(answered, label, scorer) for answered in (pair.production, pair.candidate)]
        both.append(Pair(sides[:1], sides[1:]))
        if all(side.score is not None for side in sides):
            scored.append(both[-1])
    return both, scored


def _side(said: ShadowAnswer, label: str | None, scorer: Scorer) -> SideAnswer:
    if said.answer is None or label is None:
        return SideAnswer(said.answer)
    return SideAnswer(said.answer, scoring.score(scorer, said.answer, label))


def report(
    environment: str,
    sides: Sides,
    params: Params,
    pairs: Sequence[ShadowPair],
    labels: Mapping[str, GivenLabel],
    notes: Sequence[str],
    now: datetime,
) -> RolloutReport:
    """Judge the ``pairs`` so far, with the ``labels`` that came until ``now``."""
    monitor = params.monitor
    both, scored = judged(
        pairs, labels, params.evaluate.scorers[0], timedelta(hours=monitor.label_hours), now
    )
    result = rollout.judge(both, scored, monitor, same_prompts=True)
    judged_pairs = (
        f"{pair.model_dump_json()}\n{labels.get(pair.request_id)!r}\n" for pair in pairs
    )
    return RolloutReport(
        kind="shadow", environment=environment, production=sides.production, candidate=sides.candidate,
        runs_in=sides.runs_in, since=min(pair.time for pair in pairs), decision=result.decision,
        margin=monitor.margin, alpha=round(1 - monitor.confidence, 6),
        evidence=digest.of_bytes("".join(judged_pairs).encode()),
        pairs=len(both), labelled=len(scored),
        agreement=result.agreement, findings=result.findings, notes=tuple(notes),
    )  # fmt: skip
