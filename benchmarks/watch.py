"""How often `lockstep watch` errs: windows in which nothing changed, and windows with requests of a new kind.

    python -m benchmarks.watch [--months 10] [--windows 10] [--runs 2] [--size 1000]

Asks the real questions (release/monitoring) of the default data: a request is a row's text, its label is the service.
There are 400 users, each with services of their own, who ask in sessions about one service. In some weeks all of them
come, in others a random third. Their mean is the reference's shares of services. Requests of a new kind are the first
lines of docstrings of Python's standard library. A stand-in for the model is right about nine of ten labels; it fails
0.3 % of requests. Needs data/splits: `./lockstep run prepare`.
"""

import ast
import sys
import sysconfig
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from tqdm import tqdm

from benchmarks import tables
from checks.config.monitor import Monitor
from checks.formats import captures
from checks.formats.captures import Capture
from checks.records.rows import Row
from checks.scorers.exact_match import ExactMatch
from checks.stats import drift
from checks.stats.drift import Text
from checks.storage import files, layout
from release.monitoring import answers, window, window_questions, window_report
from release.monitoring.answers import Reference, ScoredAnswer, Windows
from release.monitoring.window import Traffic
from release.monitoring.window_questions import Question

MONITOR = Monitor()
SCORER = ExactMatch(kind="exact-match")
REFERENCE = 2000  # The rows that a window is compared with.
ANSWERS = 1000
USERS = 400
CONCENTRATION = (
    0.5  # A user's services follow a Dirichlet distribution: most users ask about a few.
)
RIGHT, FAILED, SLOW = 0.9, 0.003, 0.02
BEGAN = datetime(2026, 3, 2, tzinfo=UTC)


class Request(NamedTuple):
    """A text, the label that is right, who asked, and when: in days since the window began."""

    text: str
    label: str
    user: str = ""
    day: float = 0.0


class Habits(NamedTuple):
    """How requests come. ``session``: requests of one, on average. ``share``: of the users, that come in a week.

    Where all come, each session has a key of its own: that of a user would say less than is known here.
    """

    name: str
    session: float = 1.0
    share: float = 1.0


HABITS = (
    Habits("independent requests"),
    Habits("sessions of 1.5 requests", 1.5),
    Habits("sessions of 3", 3.0),
    Habits("a random third of the users each week", 1.0, 1 / 3),
)


FOREIGN = (0.0, 0.3, 0.1, 0.05)  # The shares of requests that are docstrings.


class World:
    """All requests: of the data, and docstrings."""

    def __init__(self) -> None:
        rows = [
            row
            for name in layout.SPLIT_NAMES
            for row in files.read_jsonl(layout.SPLITS / f"{name}.jsonl", Row)
        ]
        requests = {
            row.prompt: Request(row.prompt, row.messages[0].content.rpartition(" ")[2])
            for row in rows
            if row.messages[0].role == "system"
        }
        self.known = list(requests.values())
        self.foreign = [Request(text, "?") for text in _docstrings()]
        self.labels = sorted({request.label for request in self.known})
        self.texts = {
            label: [request for request in self.known if request.label == label]
            for label in self.labels
        }
        shares = np.array([len(self.texts[label]) / len(self.known) for label in self.labels])
        self.users = np.random.default_rng(0).dirichlet(CONCENTRATION * shares, USERS) + 1e-9
        for _ in range(50):  # Repeat until the users' mean is the shares of the rows.
            self.users *= shares / self.users.mean(axis=0)
            self.users /= self.users.sum(axis=1, keepdims=True)

    def rows(self, random: Any) -> list[Request]:
        """Draw the rows of a reference, none of them twice."""
        return [self.known[i] for i in random.permutation(len(self.known))[:REFERENCE]]

    def window(self, foreign: float, size: int, random: Any, habits: Habits) -> list[Request]:
        """Draw the requests of a window, in order of time; a share ``foreign`` of the sessions are docstrings."""
        users, requests = random.permutation(USERS)[: round(habits.share * USERS)], list[Request]()
        while len(requests) < size:
            user, kind, day = (
                random.choice(users),
                random.random(),
                random.random() * MONITOR.window_days,
            )
            key = f"{user}" if habits.share < 1 else f"s{random.integers(2**62)}"
            pool = self.texts[self.labels[random.choice(len(self.labels), p=self.users[user])]]
            pool = self.foreign if kind < foreign else pool
            for number in range(random.geometric(1 / habits.session)):
                request = pool[random.integers(len(pool))]
                requests.append(
                    request._replace(
                        user=key, day=min(day + number / 1440, MONITOR.window_days - 1e-6)
                    )
                )
        return sorted(requests[:size], key=lambda request: request.day)

    def answer(self, request: Request, random: Any) -> str:
        """Answer as the stand-in does."""
        right = request.label in self.labels and random.random() < RIGHT
        return request.label if right else str(random.choice(self.labels))


def _docstrings() -> list[str]:
    """Return the first lines of docstrings of functions and classes, each once."""
    lines = set[str]()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
                text := ast.get_docstring(node)
            ):
                lines.add(text.splitlines()[0])
    return sorted(text for text in lines if 4 <= len(text.split()) <= 30)


def reference_of(world: World, rows: Sequence[Request], random: Any) -> Reference:
    """Return what a release is compared with: its rows, and its answers to some of them before it was served."""
    offline = list[ScoredAnswer]()
    for number, request in enumerate(rows[:ANSWERS]):
        answer = world.answer(request, random)
        offline.append(
            ScoredAnswer(
                f"t{number}", request.text, answer, request.text, float(answer == request.label)
            )
        )
    prompts = [Text(f"p{random.integers(2**62)}", request.text, request.text) for request in rows]
    return Reference(prompts, offline, frozenset(world.labels))


def traffic_of(world: World, requests: Sequence[Request], random: Any, began: datetime) -> Traffic:
    """Capture the requests of a window that begins at ``began``. A fifth of them got labels."""
    size, labels, captured = len(requests), dict[str, str](), list[Capture]()
    seconds = np.where(
        random.random(size) < SLOW, 20.0, random.exponential(1.0, size).clip(0.05, 9.0)
    )
    failed = random.random(size) < FAILED
    for number, (request, took, broken) in enumerate(zip(requests, seconds, failed, strict=True)):
        answer, name = world.answer(request, random), f"r{random.integers(2**62)}"
        if number % 5 == 0:
            labels[name] = request.label
        time = began + timedelta(days=request.day)
        captured.append(capture(name, request, None if broken else answer, time, took))
    return Traffic(tuple(captured), labels, ())


def questions(
    traffic: Traffic, earlier: Sequence[Traffic], reference: Reference, keyed: bool
) -> list[Question]:
    """Ask what `lockstep watch` asks. ``keyed``: requests have user keys."""
    served, *before = (
        window.answered(one if keyed else _without_keys(one), SCORER)
        for one in (traffic, *earlier[: window.EARLIER])
    )
    return [
        *window_report.service_questions(traffic.requests, MONITOR),
        *answers.questions(Windows(served, before, keyed), reference, MONITOR),
    ]


def _without_keys(traffic: Traffic) -> Traffic:
    requests = tuple(request.model_copy(update={"user_key": None}) for request in traffic.requests)
    return traffic._replace(requests=requests)


def capture(
    name: str, request: Request, answer: str | None, time: datetime, seconds: float
) -> Capture:
    asks = captures.InputMessage.model_construct(role="user", parts=(_text(request.text),))
    says = captures.OutputMessage.model_construct(
        role="assistant", parts=(_text(answer or ""),), finish_reason="stop"
    )
    return Capture.model_construct(
        time=time, operation="chat", input_messages=(asks,), request_id=name,
        output_messages=() if answer is None else (says,), status=500 if answer is None else 200,
        error="500" if answer is None else None, seconds=float(seconds), seconds_to_first_token=None,
        environment="production", redactions={}, sampled_share=1.0,
        user_key=request.user,
    )  # fmt: skip


def _text(content: str) -> captures.Part:
    return captures.Part.model_construct(type="text", content=content)


class Case(NamedTuple):
    """What `lockstep watch` knows: ``earlier`` windows, and whether requests have user keys."""

    name: str
    earlier: int
    keyed: bool


CASES = (
    Case("first week, user keys", 0, True),
    Case("8 weeks before", 8, False),
    Case("8 weeks before, user keys", 8, True),
)


class Month(NamedTuple):
    """A release's reference, and the windows that it has had, latest first."""

    reference: Reference
    earlier: list[Traffic]

    @classmethod
    def of(cls, world: World, habits: Habits, size: int, random: Any) -> Self:
        """Draw both, with nothing changed."""
        weeks = [BEGAN - timedelta(weeks=number) for number in range(1, window.EARLIER + 1)]
        earlier = [
            traffic_of(world, world.window(0, size, random, habits), random, week) for week in weeks
        ]
        return cls(reference_of(world, world.rows(random), random), earlier)

    def failing(
        self, world: World, foreign: float, habits: Habits, size: int, random: Any
    ) -> dict[str, list[str]]:
        """Return, by case, the findings that fail in one window after them."""
        now = traffic_of(world, world.window(foreign, size, random, habits), random, BEGAN)
        names = {}
        for case in CASES:
            asks = questions(now, self.earlier[: case.earlier], self.reference, case.keyed)
            findings = window_questions.findings(asks, MONITOR.alpha)
            names[case.name] = [finding.name for finding in findings if finding.status == "fail"]
        return names


def windows(world: World, options: Namespace) -> Iterator[tuple[object, ...]]:
    """Count the windows that fail, by kind of requests, share of docstrings, and what `lockstep watch` knows."""
    for place, habits in enumerate(HABITS):
        random, failed = (
            np.random.default_rng([options.seed, place]),
            defaultdict[Any, list[list[str]]](list),
        )
        for _ in tqdm(range(options.months), desc=habits.name, file=sys.stderr):
            month = Month.of(world, habits, options.size, random)
            for foreign in FOREIGN:
                for _ in range(options.runs if foreign else options.windows):
                    for case, names in month.failing(
                        world, foreign, habits, options.size, random
                    ).items():
                        failed[foreign, case].append(names)
        for (foreign, case), outcomes in failed.items():
            by = ", ".join(
                f"{name} {count}" for name, count in Counter(chain(*outcomes)).most_common()
            )
            yield (
                habits.name,
                f"{foreign:.0%}",
                case,
                f"{sum(map(bool, outcomes))} of {len(outcomes)}",
                by or "none",
            )


def _remembered(test: Any) -> Any:
    """Remember the results of ``test``, which is asked of the same earlier windows again and again."""
    known: dict[Any, Any] = {}

    def remembering(ours: Sequence[Text], theirs: Sequence[Text], confidence: float) -> Any:
        key = (tuple(ours), hash(tuple(theirs)), confidence)
        if key not in known:
            known[key] = test(ours, theirs, confidence)
        return known[key]

    return remembering


def main() -> None:
    """Print the table."""
    options = tables.numbers(__doc__, months=10, windows=10, runs=2, size=1000, seed=20261126)
    world, drift.texts = World(), _remembered(drift.texts)
    columns = ("requests", "docstrings", "known", "windows that fail", "by which finding")
    tables.show(f"Windows at alpha {MONITOR.alpha:.2%}", columns, windows(world, options))


if __name__ == "__main__":
    main()
