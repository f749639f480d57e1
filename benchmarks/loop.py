"""The whole loop on this machine, by the product's own commands, with the seconds of each step.

    python -m benchmarks.loop [--requests 160] [--canary 300] [--rows 60]

In:  nothing. A tiny model is taught four topics by heart, and released to production. All of it lies in a temporary
     folder; every server and gateway is real and on loopback.
Out: a Markdown table of the steps, and one of the checks. A check that does not hold ends the run.

Traffic gets a topic that the model never saw. People label the requests. `lockstep harvest` draws a fresh test split of
them, and makes train rows of the others. The next model must be better than main's on the fresh split. It goes to
staging, gets half of production's traffic as a canary, and goes to production. A label counts a day after its request.
So that nobody waits for it, captures and labels of the canary are dated back by ``BACK``.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import requests as http

from benchmarks import tables
from checks.config import params_file
from checks.formats.harvest import Review
from checks.formats.rollout_report import RolloutReport
from checks.formats.verdict import Verdict
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.runtimes import lookup
from release.serving import behind_gateway
from release.serving.behind_gateway import Behind
from tests import conftest, overlay_sample, tuned, workflow_repository
from tests import pipeline_repository as repository
from tests.pipeline_repository import git
from tests.repository.test_tutorials import LAUNCHER

TOPIC = "sql"
THINGS = ("sql database", "query replica", "elastic pool", "slow query log")
BACK = timedelta(hours=36)
AT_ONCE = 4
SEED = 42
TERMS = ("--license", "MIT", "--consent", "a benchmark")


class Request(NamedTuple):
    """A prompt of a user, with the answer that it should get."""

    id: str
    prompt: str
    label: str


class Loop:
    """The repository at ``root``, its server, and the steps that were done, each with its seconds."""

    def __init__(self, root: Path, runtime: str = "transformers") -> None:
        self.root, self.captures, self.runtime = root, root / layout.CAPTURES, runtime
        self.steps: list[tuple[str, float]] = []

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Measure what the block does."""
        began = time.perf_counter()
        print(f"{what} …", file=sys.stderr, flush=True)
        yield
        self.steps.append((what, time.perf_counter() - began))

    def lockstep(self, *arguments: str, code: int | None = 0) -> str:
        """Run a command of the product as a process, and return what it prints. ``code`` None: with any exit code."""
        who = {
            f"GIT_{role}_{what}": f"{what}@ada.example"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        done = subprocess.run(
            ["./lockstep", *arguments], cwd=self.root, env=repository.environment(**who), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if code is not None and done.returncode != code:
            raise SystemExit(
                f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout + done.stderr

    def commit(self, message: str) -> None:
        """Commit everything that is not ignored."""
        repository.commit(self.root, message)

    def release(self, *environments: str) -> None:
        """Build, verify, sign and promote the record."""
        for command in ("build", f"verify --runtime {self.runtime}", "sign"):
            with self.step(command):
                self.lockstep(*command.split())
        self.commit("Image and verification")
        for environment in environments:
            with self.step(f"promote {environment}"):
                self.lockstep("promote", environment)

    def weights(self, name: str) -> tuple[Path, str]:
        """Keep the merged weights beside the repository. Return their folder and their digest."""
        folder = self.root.parent / name
        shutil.copytree(self.root / layout.MERGED, folder)
        return folder, digest.of_tree(folder).digest

    def verdict(self) -> Verdict:
        """Return the recorded verdict."""
        return files.read_json(self.root / layout.VERDICT, Verdict)

    def label(self, requests: Sequence[Request]) -> None:
        """Store the label that people give each request."""
        path = self.root.parent / "labels.jsonl"
        rows = [{"request_id": request.id, "label": request.label} for request in requests]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        self.lockstep("feedback", str(path))

    @contextmanager
    def serving(
        self, *weights: tuple[Path, str], options: Sequence[str] = ()
    ) -> Iterator[list[Behind]]:
        """Serve each model behind a gateway of production's captures, with ``options`` of `lockstep gateway`."""
        params = params_file.load(self.root / layout.PARAMS)
        runtime = lookup.here(self.root, self.runtime)
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    behind_gateway.started(
                        runtime,
                        params.serve,
                        folder,
                        sha256,
                        "production",
                        self.captures,
                        self.root,
                        options,
                    )
                )
                for folder, sha256 in weights
            ]
            for server in servers:
                server.wait(params.serve.verify.start_seconds)
            yield servers


def traffic(prefix: str, count: int, share: float, chance: random.Random) -> list[Request]:
    """Draw different requests, of which a ``share`` is of the new topic."""
    known = [(thing, label) for label, things in repository.SERVICES.items() for thing in things]
    drawn = []
    for number in range(count):
        new = (chance.choice(THINGS), TOPIC)
        thing, label = new if chance.random() < share else chance.choice(known)
        prompt = f"{chance.choice(repository.VERBS)} {thing} for team {prefix}{number:03}"
        drawn.append(Request(f"{prefix}-{number}", prompt, label))
    return drawn


def send(servers: Sequence[Behind], requests: Sequence[Request], chance: random.Random) -> float:
    """Send each request to one of the servers by chance. Return the share of right answers of the last server."""
    chosen = [chance.randrange(len(servers)) for _ in requests]

    def answered(request: Request, place: int) -> bool:
        asked = {
            "model": servers[place].model, "max_tokens": 8, "temperature": 0, "user": request.id,
            "messages": [
                {"role": "system", "content": repository.LOADER["instruction"]},
                {"role": "user", "content": request.prompt},
            ],
        }  # fmt: skip
        reply = http.post(
            f"{servers[place].url}/v1/chat/completions",
            json=asked,
            headers={"X-Request-Id": request.id},
            timeout=120,
        )
        reply.raise_for_status()
        return bool(reply.json()["choices"][0]["message"]["content"].strip() == request.label)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        right = list(pool.map(answered, requests, chosen))
    of_last = [ok for ok, place in zip(right, chosen, strict=True) if place == len(servers) - 1]
    return sum(of_last) / len(of_last)


def redate(captures: Path, moved: Callable[[dict[str, Any]], datetime]) -> None:
    """Give each captured request of production the time that ``moved`` returns for it."""
    for path in [*(captures / "production").rglob("*.jsonl")]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        for row in rows:
            time = moved(row)
            row["time"] = time.isoformat().replace("+00:00", "Z")
            name = f"{time:%H}-{path.name.partition('-')[2]}"
            target = captures / "production" / f"{time:%Y-%m-%d}" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("a") as stream:
                stream.write(f"{json.dumps(row)}\n")


def date_back(captures: Path, prefix: str) -> None:
    """Make the newest labels, and the requests whose ids begin with ``prefix``, older by ``BACK``."""

    def moved(row: dict[str, Any]) -> datetime:
        came = datetime.fromisoformat(row["time"])
        return came - BACK if row["lockstep.request_id"].startswith(prefix) else came

    redate(captures, moved)
    newest = max((captures / "feedback").iterdir())
    stored, dash, rest = newest.name.partition("-")
    early = datetime.strptime(stored, "%Y%m%dT%H%M%S.%fZ") - BACK + timedelta(hours=1)
    newest.rename(newest.with_name(f"{early:%Y%m%dT%H%M%S.%fZ}{dash}{rest}"))


def document() -> dict[str, Any]:
    """Return params.yaml as plain values. The next model must be better than main's."""
    value = workflow_repository.document()
    value["train"] |= {"max_steps": 500}
    value["train"]["lora"] |= {"r": 16, "alpha": 32}
    value["gates"] |= {
        "test_is_fresh": {"kind": "looks", "most": 3},
        "is_better": {
            "kind": "improves", "metric": "exact-match", "against": "main", "margin": 0.0, "confidence": 0.95,
        },
    }  # fmt: skip
    value["monitor"] = {"labels": [*repository.SERVICES, TOPIC], "margin": 0.2}
    return value


def begin(home: Path) -> Loop:
    """Lay out a repository with a base that knows four topics."""
    root = home / "work"
    root.mkdir()
    conftest._make_tiny_base(home / "tiny")
    asked = workflow_repository.loaded(repository.table(), home / "rows")
    tuned.tune(home / "tiny", home / "taught", asked, 400)
    value = document()
    repository.make(root, home / "taught", value, repository.table())
    labels = value["validate"]["labels"] | {"max_distinct": 5}
    value["validate"] |= {"labels": labels}
    repository.write_params(root, value)
    for name in ("staging", "production"):
        overlay_sample.pin(root / layout.ENVIRONMENTS, name)
    shutil.copytree(conftest.REPOSITORY / "docs" / "cards", root / "docs" / "cards")
    launcher = root / "lockstep"
    launcher.write_text(LAUNCHER.replace("@PYTHON@", repository.interpreter(PYTHONSAFEPATH="1")))
    launcher.chmod(0o755)
    loop = Loop(root)
    loop.lockstep(
        "keys",
        "new",
        "--name",
        "ada",
        "--may",
        "verify",
        "--may",
        "release",
        "--may",
        "harvest",
        "--add",
    )
    loop.commit("Begin")
    return loop


def close_loop(
    home: Path, requests: int, canary: int, rows: int
) -> tuple[Loop, list[tuple[str, object]]]:
    """Run the loop once. Return its steps, and what was checked."""
    chance, checks = random.Random(SEED), list[tuple[str, object]]()
    loop = begin(home)
    with loop.step("run (the first model)"):
        loop.lockstep("run")
    loop.commit("First record")
    loop.release("staging", "production")
    first = loop.weights("first")

    asked = traffic("a", requests, 0.4, chance)
    with loop.step("serve production behind a gateway, with the requests"), ExitStack() as stack:
        servers = stack.enter_context(loop.serving(first))
        with loop.step(
            f"{requests} requests, {sum(one.label == TOPIC for one in asked)} of the new topic"
        ):
            right = send(servers, asked, chance)
    checks.append(("production's right answers, with the new topic", f"{right:.2f}"))
    with loop.step("feedback"):
        loop.label(asked)

    with loop.step("harvest --split test, sign, prepare"):
        loop.lockstep("harvest", "production", "--split", "test", "--rows", f"{rows}", *TERMS)
        loop.lockstep("harvest", "production", "--split", "test", "--sign")
        loop.commit("A fresh test split")
        loop.lockstep("run", "prepare")
    with loop.step("harvest, sign"):
        loop.lockstep("harvest", "production", *TERMS)
        loop.lockstep("harvest", "production", "--sign")
    loop.commit("A harvest")
    test = files.read_jsonl(loop.root / layout.SPLITS / "test.jsonl", Row)
    review = files.read_json(loop.root / layout.HARVESTS / "production.json", Review)
    drawn, learned = {row.id for row in test}, {origin.request for origin in review.origins}
    hold("no row is in both splits", not drawn & learned)
    checks.append(("rows: fresh test split, train", f"{len(drawn)}, {len(learned)}"))

    with loop.step("run (the next model)"):
        loop.lockstep("run")
    loop.commit("Next record")
    verdict = loop.verdict()
    findings = {finding.gate: finding for finding in verdict.findings}
    checks += [(name, findings[name].reason) for name in ("is_better", "test_is_fresh")]
    hold("the next model passes", verdict.status == "pass")
    loop.release("staging")
    second = loop.weights("second")

    asked = traffic("c", canary, 0.4, chance)
    with (
        loop.step("serve both releases, each behind a gateway, with the requests"),
        ExitStack() as stack,
    ):
        servers = stack.enter_context(loop.serving(first, second))
        with loop.step(f"{canary} requests, half of them to the candidate"):
            right = send(servers, asked, chance)
    checks.append(("the candidate's right answers", f"{right:.2f}"))
    with loop.step("feedback of the canary"):
        loop.label(asked)
    date_back(loop.captures, "c-")
    with loop.step("canary"):
        loop.lockstep("canary", "production")
    report = files.read_json(loop.root / layout.ROLLOUT / "production-canary.json", RolloutReport)
    checks.append(("canary", report.decision))
    with loop.step("promote production"):
        loop.lockstep("promote", "production")
    pointer = (loop.root / layout.ENVIRONMENTS / "production" / layout.POINTER).read_text()
    hold("production runs the next model", second[1] in pointer)
    checks.append(("production runs", git(loop.root, "log", "-1", "--format=%s").strip()))
    return loop, checks


def hold(what: str, is_so: bool) -> None:
    """End the run where a check does not hold."""
    if not is_so:
        raise SystemExit(f"does not hold: {what}")


def main() -> None:
    """Run the loop and print its tables."""
    options = tables.numbers(__doc__, requests=160, canary=300, rows=60)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="lockstep-loop-") as name:
        loop, checks = close_loop(
            Path(name).resolve(), options.requests, options.canary, options.rows
        )
        tables.show(
            "Steps", ("step", "seconds"), ((what, f"{seconds:.1f}") for what, seconds in loop.steps)
        )
        tables.show("Checks", ("what", "result"), checks)


if __name__ == "__main__":
    main()
