"""How often `lockstep watch` errs: years of windows in which nothing changed, and windows with planted changes.

    python -m benchmarks.watch [--years 6] [--runs 40] [--seed 20261126]

Prints Markdown tables. Asks the real questions (release/monitoring) of the default data: a request is a row's text, its
label is the service. Each window is drawn anew, without replacement, and compared with other rows. Requests of another
kind are about services that the reference has none of, or the first lines of docstrings of Python's standard library. A
stand-in for the model is right about nine of ten labels; it fails 0.3 % of requests. Needs data/splits: `./lockstep run
prepare`.
"""

import argparse
import ast
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from checks import files, layout
from checks.config.monitor import Monitor
from checks.formats import captures
from checks.formats.captures import Capture
from checks.formats.watch_report import WatchFinding
from checks.rows import Row
from checks.scorers.exact_match import ExactMatch
from checks.stats import intervals
from release.monitoring import answers, asked, service, window
from release.monitoring.answers import Answered, Reference
from release.monitoring.asked import Asked
from release.monitoring.window import Traffic

MONITOR = Monitor()
SCORER = ExactMatch(kind="exact-match")
WINDOWS = 52
SIZES = (200, 1000)  # requests of a window
REFERENCE = 2000  # rows that a window is compared with; as many answers as the default's test split
ANSWERS = 1000
RIGHT, FAILED, SLOW = 0.9, 0.003, 0.02
BEGAN = datetime(2026, 3, 2, tzinfo=UTC)


class Request(NamedTuple):
    """A text, and the label that is right."""

    text: str
    label: str


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
        each = {row.prompt: Request(row.prompt, row.messages[0].content.rpartition(" ")[2]) for row in rows}
        services = Counter(request.label for request in each.values())
        ordered = [name for name, _ in services.most_common()]
        strange = set(ordered[1::3])  # a third of them, small and large ones
        self.known = [request for request in each.values() if request.label not in strange]
        self.other = [request for request in each.values() if request.label in strange]
        self.foreign = [Request(text, "?") for text in _docstrings()]
        self.commonest = next(name for name in ordered if name not in strange)
        self.labels = sorted({request.label for request in self.known})

    def apart(self, random: Any) -> tuple[list[Request], list[Request]]:
        """Requests of the reference, and all others, in no order."""
        places = random.permutation(len(self.known))
        return [self.known[i] for i in places[:REFERENCE]], [self.known[i] for i in places[REFERENCE:]]

    def window(self, rest: Sequence[Request], change: Change, size: int, random: Any) -> list[Request]:
        """Requests of a window, of ``rest``, without one twice."""
        rest = [rest[i] for i in random.permutation(len(rest))]
        strange = [
            pool[i]
            for pool, share in ((self.other, change.other), (self.foreign, change.foreign))
            for i in random.choice(len(pool), round(share * size), replace=False)
        ]
        if change.grown:
            share = sum(request.label == self.commonest for request in self.known) / len(self.known)
            wanted = round((1 + change.grown) * share * size)
            ours = [request for request in rest if request.label == self.commonest][:wanted]
            return ours + [request for request in rest if request.label != self.commonest][: size - len(ours)]
        return rest[: size - len(strange)] + strange

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
    prompts = [(f"p{random.integers(2**62)}", request.text) for request in rows]
    return Reference(prompts, offline, frozenset(world.labels))


def traffic_of(world: World, requests: Sequence[Request], change: Change, random: Any, began: datetime) -> Traffic:
    """The requests of a window that begins at ``began``, captured. A fifth of them got labels."""
    size, labels, captured = len(requests), dict[str, str](), list[Capture]()
    seconds = np.where(random.random(size) < SLOW, 20.0, random.exponential(1.0, size).clip(0.05, 9.0))
    failed = random.random(size) < change.failed
    when = np.sort(random.random(size)) * MONITOR.window_days
    for number, (request, day, took, broken) in enumerate(zip(requests, when, seconds, failed, strict=True)):
        answer, name = world.answer(request, change, random), f"r{random.integers(2**62)}"
        if number % 5 == 0:
            labels[name] = request.label
        captured.append(_capture(name, request, None if broken else answer, began + timedelta(days=float(day)), took))
    return Traffic(tuple(captured), labels, ())


def questions(traffic: Traffic, reference: Reference) -> list[Asked]:
    """What `lockstep watch` asks of them."""
    levels, served = asked.levels(MONITOR), window.answered(traffic, SCORER)
    return [
        *service.questions(traffic.requests, MONITOR.objectives, levels),
        *answers.questions(served, reference, MONITOR, levels),
    ]


def findings(world: World, change: Change, size: int, random: Any) -> tuple[WatchFinding, ...]:
    """The findings of one window of ``size`` requests."""
    rows, rest = world.apart(random)
    traffic = traffic_of(world, world.window(rest, change, size, random), change, random, BEGAN)
    return asked.findings(questions(traffic, reference_of(world, rows, random)), MONITOR.alpha)


def _capture(name: str, request: Request, answer: str | None, time: datetime, seconds: float) -> Capture:
    asks = captures.InputMessage.model_construct(role="user", parts=(_text(request.text),))
    says = captures.OutputMessage.model_construct(role="assistant", parts=(_text(answer or ""),), finish_reason="stop")
    return Capture.model_construct(
        time=time, operation="chat", input_messages=(asks,), request_id=name,
        output_messages=() if answer is None else (says,), status=500 if answer is None else 200,
        error="500" if answer is None else None, seconds=float(seconds), seconds_to_first_token=None,
        environment="production", redactions={}, sampled_share=1.0,
    )  # fmt: skip


def _text(content: str) -> captures.Part:
    return captures.Part.model_construct(type="text", content=content)


def same(world: World, years: int, sizes: Sequence[int], seed: int) -> Iterator[str]:
    """Nothing changed: any alarm is a false one."""
    yield "| requests in a window | windows | false alarms | 95 % interval | a year | by which finding | pass |"
    yield "| ---: | ---: | ---: | --- | ---: | --- | ---: |"
    for size in sizes:
        random, alarms, by, passed = np.random.default_rng([seed, size]), [], Counter[str](), 0
        for _ in tqdm(range(years * WINDOWS), desc=f"unchanged, {size}", file=sys.stderr):
            found = findings(world, UNCHANGED, size, random)
            failing = [each.name for each in found if each.status == "fail"]
            alarms.append(float(bool(failing)))
            by.update(failing)
            passed += all(each.status == "pass" for each in found)
        share = intervals.mean_interval(alarms, [str(i) for i in range(len(alarms))], 0.95)
        names = ", ".join(f"{name} {count}" for name, count in by.most_common()) or "none"
        yield (
            f"| {size} | {len(alarms)} | {share.value:.2%} | {share.low:.2%} to {share.high:.2%} | "
            f"{share.value * WINDOWS:.2f} | {names} | {passed / len(alarms):.0%} |"
        )


def planted(world: World, runs: int, sizes: Sequence[int], seed: int) -> Iterator[str]:
    """How often the finding that should see a change fails, and how often the window does."""
    yield f"| change | finding | {' | '.join(f'{size} requests' for size in sizes)} |"
    yield f"| --- | --- |{' ---: |' * len(sizes)}"
    for number, change in enumerate(CHANGES):
        cells = []
        for size in sizes:
            random, seen = np.random.default_rng([seed, number, size]), 0
            for _ in tqdm(range(runs), desc=f"{change.name}, {size}", file=sys.stderr):
                found = findings(world, change, size, random)
                seen += any(each.status == "fail" and each.name == change.finding for each in found)
            cells.append(f"{seen / runs:.0%}")
        yield f"| {change.name} | {change.finding} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, default=6, help="years of windows without a change, of each size")
    parser.add_argument("--runs", type=int, default=40, help="windows of each planted change")
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args(arguments)
    world = world_of_splits()
    print(f"Seed {options.seed}; alpha {MONITOR.alpha:.2%} a window, {len(world.labels)} labels.")
    for name, table in {
        "Nothing changed": same(world, options.years, SIZES, options.seed),
        "Planted changes": planted(world, options.runs, SIZES, options.seed),
    }.items():
        print(f"\n### {name}\n")
        for line in table:
            print(line, flush=True)


if __name__ == "__main__":
    main()
