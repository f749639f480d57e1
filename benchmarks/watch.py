"""How often `lockstep watch` errs: windows in which nothing changed, and windows with planted changes.

    python -m benchmarks.watch [--months 10] [--windows 10] [--runs 2] [--size 1000] [--all] [--habits 0]

Prints a Markdown table. Asks the real questions (release/monitoring) of the default data: a request is a row's text,
its label is the service. There are 400 users, each with services of their own, who ask in sessions about one service.
In some weeks all of them come, in others a random third. Their mean is the reference's shares of services. Requests of
another kind are about services that the reference has none of, or the first lines of docstrings of Python's standard
library. A stand-in for the model is right about nine of ten labels; it fails 0.3 % of requests. Needs data/splits:
`./lockstep run prepare`.
"""

import argparse
import ast
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from tqdm import tqdm

from checks import files, layout
from checks.config.monitor import Monitor
from checks.formats import captures
from checks.formats.captures import Capture
from checks.rows import Row
from checks.scorers.exact_match import ExactMatch
from checks.stats import drift
from checks.stats.drift import Text
from release.monitoring import answers, asked, service, window
from release.monitoring.answers import Answered, Reference, Windows
from release.monitoring.asked import Asked
from release.monitoring.window import Traffic

MONITOR = Monitor()
SCORER = ExactMatch(kind="exact-match")
WINDOWS = 52
SIZES = (200, 1000)  # requests of a window
REFERENCE = 2000  # rows that a window is compared with; as many answers as the default's test split
ANSWERS = 1000
USERS, CONCENTRATION = 400, 0.5  # of the Dirichlet distribution of a user's services: most ask about a few
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


class Change(NamedTuple):
    """What is planted. ``other``: share of requests about services that the reference has none of, ``foreign``: of
    docstrings. ``grown``: by what part of itself the commonest label's share grows. ``right``: of the answers.
    ``refused``: share that are refusals.
    """

    name: str
    finding: str  # that should see it
    other: float = 0.0
    foreign: float = 0.0
    grown: float = 0.0
    right: float = RIGHT
    refused: float = 0.0
    failed: float = FAILED

    def part(self, share: float) -> "Change":
        """The change of a window of which it had only begun in a ``share``."""
        return self._replace(
            other=self.other * share, foreign=self.foreign * share, grown=self.grown * share,
            right=RIGHT + (self.right - RIGHT) * share, refused=self.refused * share,
            failed=FAILED + (self.failed - FAILED) * share,
        )  # fmt: skip


UNCHANGED = Change("", "")
CHANGES = (
    Change("30 % docstrings", "prompts", foreign=0.3),
    Change("10 % docstrings", "prompts", foreign=0.1),
    Change("5 % docstrings", "prompts", foreign=0.05),
    Change("30 % requests about other services", "prompts", other=0.3),
    Change("10 % requests about other services", "prompts", other=0.1),
    Change("the commonest label's share doubled", "labels", grown=1.0),
    Change("right about 10 points fewer labels", "quality", right=RIGHT - 0.1),
    Change("right about 20 points fewer labels", "quality", right=RIGHT - 0.2),
    Change("10 % refusals", "no refusals", refused=0.1),
    Change("3 % of requests fail", "availability", failed=0.03),
)


class World:
    """All requests: of services that the reference knows, and of others."""

    def __init__(self, rows: Sequence[Row]) -> None:
        each = {
            row.prompt: Request(row.prompt, row.messages[0].content.rpartition(" ")[2])
            for row in rows
            if row.messages[0].role == "system"
        }
        services = Counter(request.label for request in each.values())
        ordered = [name for name, _ in services.most_common()]
        strange = set(ordered[1::3])  # a third of them, small and large ones
        self.known = [request for request in each.values() if request.label not in strange]
        self.other = [request for request in each.values() if request.label in strange]
        self.foreign = [Request(text, "?") for text in _docstrings()]
        self.commonest = next(name for name in ordered if name not in strange)
        self.labels = sorted({request.label for request in self.known})

        self.texts = {label: [request for request in self.known if request.label == label] for label in self.labels}
        self.shares = np.array([len(self.texts[label]) / len(self.known) for label in self.labels])
        random = np.random.default_rng(0)
        self.users = random.dirichlet(CONCENTRATION * self.shares, USERS) + 1e-9
        for _ in range(50):  # until their mean is the shares of the rows
            self.users *= self.shares / self.users.mean(axis=0)
            self.users /= self.users.sum(axis=1, keepdims=True)

    def rows(self, random: Any) -> list[Request]:
        """Rows of a reference, without one twice."""
        return [self.known[i] for i in random.permutation(len(self.known))[:REFERENCE]]

    def window(self, change: Change, size: int, random: Any, habits: Habits = HABITS[0]) -> list[Request]:
        """Requests of a window, in order of time."""
        users, requests = random.permutation(USERS)[: round(habits.share * USERS)], list[Request]()
        while len(requests) < size:
            user, kind, day = random.choice(users), random.random(), random.random() * MONITOR.window_days
            key = f"{user}" if habits.share < 1 else f"s{random.integers(2**62)}"
            shares = self.users[user]
            if change.grown:
                shares = shares * np.where(np.array(self.labels) == self.commonest, 1 + change.grown, 1.0)
                shares /= shares.sum()
            pool = self.texts[self.labels[random.choice(len(self.labels), p=shares)]]
            if kind < change.foreign + change.other:
                pool = self.foreign if kind < change.foreign else self.other
            for number in range(random.geometric(1 / habits.session)):
                asked = pool[random.integers(len(pool))]
                requests.append(asked._replace(user=key, day=min(day + number / 1440, MONITOR.window_days - 1e-6)))
        return sorted(requests[:size], key=lambda request: request.day)

    def answer(self, request: Request, change: Change, random: Any) -> str:
        """The stand-in's answer."""
        if random.random() < change.refused:
            return "I'm sorry, but I cannot help with that."
        right = request.label in self.labels and random.random() < change.right
        return request.label if right else str(random.choice(self.labels))


def world_of_splits() -> World:
    """Of all rows of data/splits."""
    return World([row for name in layout.SPLIT_NAMES for row in files.read_jsonl(layout.SPLITS / f"{name}.jsonl", Row)])


def _docstrings() -> list[str]:
    """First lines of docstrings of functions and classes, each once."""
    found = set[str]()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                found.add(text.splitlines()[0])
    return sorted(text for text in found if 4 <= len(text.split()) <= 30)


def reference_of(world: World, rows: Sequence[Request], random: Any) -> Reference:
    """What a release is compared with: its rows, and its answers to some of them before it was served."""
    offline = list[Answered]()
    for number, request in enumerate(rows[:ANSWERS]):
        answer = world.answer(request, UNCHANGED, random)
        offline.append(Answered(f"t{number}", request.text, answer, request.text, float(answer == request.label)))
    prompts = [Text(f"p{random.integers(2**62)}", request.text, request.text) for request in rows]
    return Reference(prompts, offline, frozenset(world.labels))


def traffic_of(world: World, requests: Sequence[Request], change: Change, random: Any, began: datetime) -> Traffic:
    """The requests of a window that begins at ``began``, captured. A fifth of them got labels."""
    size, labels, captured = len(requests), dict[str, str](), list[Capture]()
    seconds = np.where(random.random(size) < SLOW, 20.0, random.exponential(1.0, size).clip(0.05, 9.0))
    failed = random.random(size) < change.failed
    for number, (request, took, broken) in enumerate(zip(requests, seconds, failed, strict=True)):
        answer, name = world.answer(request, change, random), f"r{random.integers(2**62)}"
        if number % 5 == 0:
            labels[name] = request.label
        time = began + timedelta(days=request.day)
        captured.append(_capture(name, request, None if broken else answer, time, took))
    return Traffic(tuple(captured), labels, ())


def questions(traffic: Traffic, earlier: Sequence[Traffic], reference: Reference, keyed: bool) -> list[Asked]:
    """What `lockstep watch` asks of them. ``keyed``: requests have user keys."""
    served, *before = (
        window.answered(each if keyed else _without_keys(each), SCORER)
        for each in (traffic, *earlier[: window.EARLIER])
    )
    levels = asked.levels(MONITOR)
    return [
        *service.questions(traffic.requests, MONITOR.objectives, levels),
        *answers.questions(Windows(served, before, keyed), reference, MONITOR, levels),
    ]


def _without_keys(traffic: Traffic) -> Traffic:
    requests = tuple(each.model_copy(update={"user_key": None}) for each in traffic.requests)
    return traffic._replace(requests=requests)


def _capture(name: str, request: Request, answer: str | None, time: datetime, seconds: float) -> Capture:
    asks = captures.InputMessage.model_construct(role="user", parts=(_text(request.text),))
    says = captures.OutputMessage.model_construct(role="assistant", parts=(_text(answer or ""),), finish_reason="stop")
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
            traffic_of(world, world.window(UNCHANGED, size, random, habits), UNCHANGED, random, week) for week in weeks
        ]
        return cls(reference_of(world, world.rows(random), random), earlier)

    def failing(self, world: World, change: Change, habits: Habits, size: int, random: Any) -> dict[str, set[str]]:
        """By case, the findings that fail in one window after them."""
        now = traffic_of(world, world.window(change, size, random, habits), change, random, BEGAN)
        asks = {case.name: questions(now, self.earlier[: case.earlier], self.reference, case.keyed) for case in CASES}
        return {
            name: {each.name for each in asked.findings(each, MONITOR.alpha) if each.status == "fail"}
            for name, each in asks.items()
        }


def tables(world: World, options: argparse.Namespace, every: Sequence[Habits]) -> Iterator[str]:
    """How often windows without a change fail, and how often the finding that should see a change does."""
    yield "| requests | change | known | windows that fail | by which finding |"
    yield "| --- | --- | --- | ---: | --- |"
    changes = [UNCHANGED, *CHANGES] if options.all else [UNCHANGED, *CHANGES[:3]]
    for habits in every:
        random, failed = (
            np.random.default_rng([options.seed, HABITS.index(habits)]),
            defaultdict[Any, list[set[str]]](list),
        )
        for _ in tqdm(range(options.months), desc=habits.name, file=sys.stderr):
            month = Month.of(world, habits, options.size, random)
            for change in changes:
                for _ in range(options.windows if change is UNCHANGED else options.runs):
                    names = month.failing(world, change, habits, options.size, random)
                    for case, found in names.items():
                        failed[change, case].append(found if change is UNCHANGED else found & {change.finding})
        for (change, case), sets in failed.items():
            by = ", ".join(f"{each} {count}" for each, count in Counter(chain(*sets)).most_common()) or "none"
            yield (
                f"| {habits.name} | {change.name or 'none'} | {case} | {sum(map(bool, sets))} of {len(sets)} | {by} |"
            )


def _remembered(test: Any) -> Any:
    """``test``, which is asked of the same earlier windows again and again."""
    known: dict[Any, Any] = {}

    def remembering(ours: Sequence[Text], theirs: Sequence[Text], confidence: float) -> Any:
        key = (tuple(ours), hash(tuple(theirs)), confidence)
        if key not in known:
            known[key] = test(ours, theirs, confidence)
        return known[key]

    return remembering


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--months", type=int, default=10, help="references and eight windows before, of each kind")
    parser.add_argument("--windows", type=int, default=10, help="windows without a change after them")
    parser.add_argument("--runs", type=int, default=2, help="windows of each planted change after them")
    parser.add_argument("--size", type=int, default=1000, help="requests of a window")
    parser.add_argument("--all", action="store_true", help="all changes, not only new kinds of requests")
    parser.add_argument("--habits", type=int, choices=range(len(HABITS)), help="only these, by number")
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args(arguments)
    world, drift.texts = world_of_splits(), _remembered(drift.texts)
    every = HABITS if options.habits is None else HABITS[options.habits : options.habits + 1]
    print(f"Seed {options.seed}; alpha {MONITOR.alpha:.2%}; {options.size} requests; {len(world.labels)} labels\n")
    for line in tables(world, options, every):
        print(line, flush=True)


if __name__ == "__main__":
    main()
