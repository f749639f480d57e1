"""How many pull requests `lockstep watch --pr` opens in years without a change, and how soon after a planted one.

    python -m benchmarks.watch_pull_requests [--years 20] [--runs 20] [--seed 20261127]

Prints Markdown tables. Real are the questions, Holm's correction, the decision and the pull request: git commits and
pushes to a bare remote. Stand-ins: GitHub (tests/github_api_standin.py), the requests, answers and labels of
benchmarks/watch.py, and people. Requests are independent and have user keys. One reference is drawn for a year, as a
release has one, and a window is compared with the eight before it. The reading of captures and of the release's record
is left out.

Where nothing changed, people close each pull request before the next window: while one is open, no other is opened, so
this is the most that can be. A planted change begins at a random time of a window, and its pull request stays open for
one more window. Needs data/splits: `./lockstep run prepare`.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

from benchmarks import watch
from benchmarks.watch import BEGAN, CHANGES, MONITOR, SIZES, UNCHANGED, WINDOWS, Change, World
from checks import files, layout
from checks.formats.watch_report import WatchFinding, WatchReport
from release.monitoring import asked, picture
from release.monitoring.window import Traffic
from release.review import retraining
from release.review.retraining import Proposal
from tests import ledger_tree
from tests.github_api_standin import TOKEN, StandIn

STATED = (1, 4, 12)  # monitor.false_alarms_a_year
WEEK = timedelta(days=MONITOR.window_days)
LONGEST = 8  # windows after a change
ROWS = 50  # as `lockstep watch --pr`


class Team:
    """A repository with a bare remote, its GitHub, and a calendar in which no window comes twice."""

    def __init__(self, home: Path, server: StandIn) -> None:
        self.root, self.server, self.began = home / "router", server, BEGAN
        ledger_tree.begin(self.root)
        ledger_tree.bare(home / "origin.git", self.root)

    def next_window(self) -> None:
        self.began += WEEK

    def propose(
        self, traffic: Traffic, findings: tuple[WatchFinding, ...], stated: float, digest: str
    ) -> Proposal | None:
        """As `lockstep watch --pr`, in an environment of its own for each stated number."""
        found = {each.status for each in findings}
        report = WatchReport(
            environment=f"production-{stated}", since=self.began, until=self.began + WEEK,
            version="router-v0.1.0", model=digest, commit="1" * 40, alpha=level(stated), confidence=MONITOR.confidence,
            status="fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass",
            traffic=digest, reference={}, requests=len(traffic.requests), prompts=len(traffic.requests),
            labelled=len(traffic.labels), findings=findings, costs=None, notes=(),
        )  # fmt: skip
        if report.status == "fail":
            files.write_json(self.root / layout.WATCH / f"{report.environment}.json", report)
            files.write_text(self.root / layout.WATCH / f"{report.environment}.svg", picture.draw(report))
        return retraining.propose(self.root, report, traffic, ROWS)

    def close_all(self) -> None:
        for pull in self.server.pulls.values():
            pull["state"] = "closed"


def level(stated: float) -> float:
    """The level of a window."""
    return MONITOR.model_copy(update={"false_alarms_a_year": stated}).alpha


def unchanged(world: World, team: Team, years: int, size: int, seed: int) -> Iterator[str]:
    """Rows of the table of windows without a change."""
    random = np.random.default_rng([seed, size])
    opened, by = {stated: list[float]() for stated in STATED}, {stated: Counter[str]() for stated in STATED}
    for _year in tqdm(range(years), desc=f"unchanged, {size}", file=sys.stderr):
        reference, earlier = watch.reference_of(world, world.rows(random), random), list[Traffic]()
        for _ in range(WINDOWS):
            team.next_window()
            requests = world.window(UNCHANGED, size, random)
            traffic = watch.traffic_of(world, requests, UNCHANGED, random, team.began)
            questions, digest = watch.questions(traffic, earlier, reference, keyed=True), traffic.digest
            earlier.insert(0, traffic)
            for stated in STATED:
                findings = asked.findings(questions, level(stated))
                done = team.propose(traffic, findings, stated, digest)
                opened[stated].append(float(done is not None and done.done == "opened"))
                by[stated].update(each.name for each in findings if done and each.status == "fail")
            team.close_all()
    for stated, each in opened.items():
        in_years = [int(sum(each[start : start + WINDOWS])) for start in range(0, len(each), WINDOWS)]
        above = sum(count > stated for count in in_years)
        bound = binomtest(above, years).proportion_ci(0.95).high
        names = ", ".join(f"{name} {count}" for name, count in by[stated].most_common()) or "none"
        yield (
            f"| {stated} | {size} | {years} | {sum(in_years)} | {sum(in_years) / years:.2f} | {max(in_years)} | "
            f"{above} (at most {bound:.0%}) | {names} |"
        )


def days(world: World, team: Team, change: Change, size: int, random: Any) -> tuple[float | None, Proposal | None]:
    """Days from the change to its pull request, None if none came; and what the window after that one did."""
    reference, onset = watch.reference_of(world, world.rows(random), random), float(random.random())
    waited: float | None = None
    earlier = list[Traffic]()
    for number in range(LONGEST + 1):
        team.next_window()
        now = change.part(1 - onset) if number == 0 else change
        traffic = watch.traffic_of(world, world.window(now, size, random), now, random, team.began)
        findings = asked.findings(watch.questions(traffic, earlier, reference, keyed=True), level(1))
        earlier.insert(0, traffic)
        done = team.propose(traffic, findings, 1, traffic.digest)
        if waited is not None or number == LONGEST:
            return waited, done
        if done is not None:
            waited = MONITOR.window_days * (number + 1 - onset)
    raise AssertionError


def planted(world: World, team: Team, runs: int, seed: int) -> Iterator[str]:
    """The table of planted changes, and a line about the windows after."""
    yield f"| change | {' | '.join(f'{size} requests: opened | days' for size in SIZES)} |"
    yield f"| --- |{' ---: | --- |' * len(SIZES)}"
    after = Counter[str]()
    for place, change in enumerate(CHANGES):
        cells = []
        for size in SIZES:
            random, waits = np.random.default_rng([seed, place, size]), list[float]()
            for _ in tqdm(range(runs), desc=f"{change.name}, {size}", file=sys.stderr):
                waited, done = days(world, team, change, size, random)
                team.close_all()
                if waited is not None:
                    waits.append(waited)
                    after["nothing" if done is None else done.done] += 1
            between = f"{statistics.median(waits):.0f} ({min(waits):.0f} to {max(waits):.0f})" if waits else ""
            cells.append(f"{len(waits)} of {runs} | {between}")
        yield f"| {change.name} | {' | '.join(cells)} |"
    said = ", ".join(f"{name} {count}" for name, count in sorted(after.items()))
    yield f"\nThe window after, with the pull request open: {said or 'none'}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--years", type=int, default=20, help="years of windows without a change, of each size")
    parser.add_argument("--runs", type=int, default=20, help="runs of each planted change, of each size")
    parser.add_argument("--seed", type=int, default=20261127)
    options = parser.parse_args(arguments)
    world = watch.world_of_splits()
    os.environ.update(ledger_tree.CLEAN)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lockstep-watch-")))
        server = stack.enter_context(StandIn("team/router"))
        os.environ.update(GITHUB_API_URL=server.url, GITHUB_REPOSITORY="team/router", GITHUB_TOKEN=TOKEN)
        team = Team(home, server)
        print(f"Seed {options.seed}; {len(world.labels)} labels.\n\n### Nothing changed\n")
        print("| stated a year | requests in a window | years | opened | a year | most in a year | years above | by |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
        for size in SIZES:
            for line in unchanged(world, team, options.years, size, options.seed):
                print(line, flush=True)
        print("\n### Planted changes\n")
        for line in planted(world, team, options.runs, options.seed):
            print(line, flush=True)
        if server.refused:
            sys.exit(f"GitHub's description does not allow: {server.refused[:3]}")


if __name__ == "__main__":
    main()
