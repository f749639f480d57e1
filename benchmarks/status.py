"""How much of a processor do verbs take in the repository of a large fleet, after five years?

    python -m benchmarks.status [--environments 50] [--releases 500] [--commits 10000] [--records 2000] [--runs 3]

In:  nothing; the repository, its bare remote and the remote's branch lockstep/looks are made in a temporary directory
     (2 GB). A release moves ten environments: staging, production and eight others. A record is two commits, of which
     the second merges it, and has the files of Lockstep's own record: evaluation, verdict, list of looks. A test split
     judges 100 models. What runs now was really built and signed, so that everything is compared.
Out: a Markdown table: the median processor time of a process with all the git that it starts, and the largest resident
     memory of one of them. ``--help`` is what any verb takes before it does anything.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple

from benchmarks import tables
from checks.formats import pointer
from checks.formats.looks import LooksReport, RowSketch
from checks.storage import digest, layout
from release.ledger import compose
from release.record import judged_models, looks_branch
from tests import ledger_tree, mirrors_tree, promotion_tree
from tests.conftest import REPOSITORY
from tests.ledger_tree import at, git, keep
from tests.mirrors_tree import Released

START = 1_600_000_000
MOVED = 10  # environments that a release moves
JUDGED = 100  # models that a test split judges
ROWS = 400  # rows of a test split
WHO = "Ada <ada@example.org>"
_LOOKS = """
import sys
from pathlib import Path
from release.record import looks
from release.record.records import Records
Path(sys.argv[1], "reports/looks.json").unlink()
assert looks.write(Records(Path(sys.argv[1])))
"""


class Size(NamedTuple):
    """How much the repository has."""

    environments: int
    releases: int
    commits: int
    records: int


def main() -> None:
    """Make the repository, measure, print."""
    options = tables.numbers(
        __doc__, environments=50, releases=500, commits=10_000, records=2_000, runs=3
    )
    size = Size(options.environments, options.releases, options.commits, options.records)
    os.environ.update(ledger_tree.CLEAN)
    # A user's processes find the bytecode of the last ones.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as scratch:
        root = world(Path(scratch), size)
        lockstep = ["-m", "release.cli", "-C", str(root)]
        last = environments(size)[-1]
        commands = {
            "dvc --version": ["-m", "dvc", "--version"],
            "--help": [*lockstep, "--help"],
            "status": [*lockstep, "status"],
            "history": [*lockstep, "history"],
            "gate": [*lockstep, "gate"],
            "promote --dry-run": [*lockstep, "promote", last, "--dry-run"],
            "reports/looks.json, made again": ["-c", _LOOKS, str(root)],
        }
        rows = ((name, *_measured(command, options.runs)) for name, command in commands.items())
        title = ", ".join(f"{value:,} {name}" for name, value in size._asdict().items())
        tables.show(title, ("command", "processor seconds", "peak MB"), rows)


def _measured(command: list[str], runs: int) -> tuple[str, str]:
    seconds, peak = [], 0
    for turn in range(runs + 1):
        process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
        if turn:  # The first turn warms the page cache.
            seconds.append(used.ru_utime + used.ru_stime)
            peak = max(peak, used.ru_maxrss)
    return f"{median(seconds):.2f}", f"{peak / 1000:.0f}"


def environments(size: Size) -> list[str]:
    """Return the names of the environments: staging, production, and the others, which follow production."""
    return ["staging", "production", *(f"site{n:02}" for n in range(1, size.environments - 1))]


def world(folder: Path, size: Size) -> Path:
    """Make a clone with that history at its remote, in which every environment but the last runs a release."""
    root, past = folder / "root", folder / "past"
    names = environments(size)
    promotion_tree.prepare(root, lambda plain: _add_environments(plain, names))
    for name in names[2:]:
        shutil.copytree(
            root / layout.ENVIRONMENTS / "production", root / layout.ENVIRONMENTS / name
        )
        for path in (root / layout.ENVIRONMENTS / name).iterdir():
            path.write_text(path.read_text().replace("production", name))
    keep(root, "sites")
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(past))
    writer = subprocess.Popen(
        ["git", "-C", str(past), "fast-import", "--quiet"], stdin=subprocess.PIPE
    )
    assert writer.stdin is not None
    _Past(size, writer.stdin).write()
    writer.stdin.close()
    assert writer.wait() == 0
    git(root, "fetch", "--quiet", "--tags", str(past), "main")
    # The past is the branch's own history, and what runs now came by a merge.
    git(root, "checkout", "--quiet", "FETCH_HEAD", "--", str(layout.ENVIRONMENTS))
    git(root, "add", "--all", ".")
    tree = git(root, "write-tree")
    merge = git(root, "commit-tree", tree, "-p", "FETCH_HEAD", "-p", "HEAD", "-m", "the past")
    git(root, "reset", "--quiet", "--hard", merge)
    running = _released(root, 20)
    for name in names[:-1]:
        mirrors_tree.move(root, name, running)
    ledger_tree.bare(folder / "origin.git", root)
    branch = f"{looks_branch.BRANCH}:{looks_branch.BRANCH}"
    git(folder / "origin.git", "fetch", "--quiet", str(past), branch)
    return root


def _add_environments(plain: dict[str, Any], names: list[str]) -> None:
    rules = plain["promote"]["environments"]
    for name in names[2:]:
        rules[name] = rules["production"] | {"after": "production"}


def _released(root: Path, seed: int) -> Released:
    release = promotion_tree.next_model(root, seed, compared=True)
    signed = release.signed
    return Released(
        release.image, release.report.model, release.report.commit, signed.envelope, signed.evidence, signed.statement
    )  # fmt: skip


class _Past:
    """Writes the history to ``git fast-import``."""

    def __init__(self, size: Size, stream: IO[bytes]) -> None:
        self._size, self._names, self._stream = size, environments(size), stream
        self._mark, self._when = 0, START
        self._tips = dict[str, int]()
        self._running = dict[str, pointer.Pointer]()
        self._moves = Counter[str]()
        self._models = dict[str, tuple[str, ...]]()
        self._rows = dict[str, tuple[RowSketch, ...]]()
        self._evaluation = (REPOSITORY / layout.EVALUATION).read_text()
        self._verdict = json.loads((REPOSITORY / layout.VERDICT).read_bytes())

    def write(self) -> None:
        """Write all commits: records, releases and other commits evenly mixed."""
        size = self._size
        others = size.commits - 2 * size.records - MOVED * size.releases - 1
        assert others >= 0, "a record is two commits, a release ten"
        assert size.environments > MOVED, "the last environment runs nothing"
        self._commit("main", "begin", {})
        self._commit(looks_branch.BRANCH, "Models that test splits judged", {})
        kinds = (
            (self._other, others),
            (self._record, size.records),
            (self._release, size.releases),
        )
        order = [((n + 0.5) / count, write, n) for write, count in kinds for n in range(count)]
        for _, write, number in sorted(order, key=lambda step: step[0]):
            write(number)

    def _other(self, number: int) -> None:
        self._commit("main", "data", {"rows.csv": self._blob(f"{number}\n")})

    def _record(self, number: int) -> None:
        """A branch with one commit, which is merged, and the look on its own branch."""
        test, model = (
            digest.of_bytes(f"{name}".encode()) for name in (number // JUDGED, -number - 1)
        )
        own = json.loads((REPOSITORY / layout.EVALUATION).read_bytes())
        evaluation = self._evaluation.replace(own["merged"], model).replace(own["test"], test)
        if test not in self._rows:
            digests = (hashlib.sha256(f"{test} {n}".encode()).hexdigest()[:12] for n in range(ROWS))
            self._rows[test] = (RowSketch(rows=ROWS, smallest="".join(sorted(digests))),)
        verdict = {
            **self._verdict, "rows": self._rows[test][0].model_dump(),
            "judged": {**self._verdict["judged"], judged_models.TEST: test}, "model": model,
        }  # fmt: skip
        rows = {split: self._rows[split] for split in self._models}
        looks = LooksReport(models=self._models, rows=rows)
        kept = {
            layout.EVALUATION: self._blob(evaluation),
            layout.VERDICT: self._blob(digest.canonical_json(verdict).decode()),
        }
        listed = {layout.LOOKS: self._blob(looks.model_dump_json(indent=2))}
        self._models[test] = tuple(sorted((*self._models.get(test, ()), model)))
        changed = {path.as_posix(): mark for path, mark in {**kept, **listed}.items()}
        self._tips["model"] = self._tips["main"]
        self._commit("model", f"model {number}", changed)
        self._commit("main", f"merge model {number}", changed, self._tips["model"])
        self._commit(
            looks_branch.BRANCH, "look", {path.as_posix(): mark for path, mark in kept.items()}
        )

    def _release(self, number: int) -> None:
        after = ledger_tree.target(str(number), "1" * 40, f"v0.{number}.0")
        others = self._names[2:-1]
        first = number * (MOVED - 2)
        chosen = [others[(first + n) % len(others)] for n in range(MOVED - 2)]
        text = self._blob(pointer.write(after).decode())
        for environment in (*self._names[:2], *chosen):
            self._moves[environment] += 1
            before = self._running.get(environment)
            message = compose(
                environment, self._moves[environment], "promote", before, after, "it is better"
            )
            self._commit("main", message, {at(environment).as_posix(): text})
            self._running[environment] = after
            if environment == self._names[0]:
                version = self._tips["main"]
                self._tag(f"{mirrors_tree.NAME}@{after.version}", version)
            self._tag(f"{mirrors_tree.NAME}#{environment}#{self._moves[environment]}", version)

    def _next(self) -> int:
        self._mark += 1
        return self._mark

    def _blob(self, text: str) -> int:
        data, mark = text.encode(), self._next()
        self._stream.write(b"blob\nmark :%d\ndata %d\n%s\n" % (mark, len(data), data))
        return mark

    def _commit(
        self, branch: str, message: str, changed: Mapping[str, int], merged: int | None = None
    ) -> None:
        mark, parent = self._next(), self._tips.get(branch)
        self._when += 15_000
        lines = [
            f"commit refs/heads/{branch}",
            f"mark :{mark}",
            f"committer {WHO} {self._when} +0000",
        ]
        lines += [f"data {len(message.encode())}", message]
        lines += [f"from :{parent}"] if parent else []
        lines += [f"merge :{merged}"] if merged else []
        lines += [f"M 100644 :{blob} {path}" for path, blob in changed.items()]
        self._stream.write(("\n".join(lines) + "\n\n").encode())
        self._tips[branch] = mark

    def _tag(self, name: str, commit: int) -> None:
        head = f"tag {name}\nfrom :{commit}\ntagger {WHO} {self._when} +0000\n"
        self._stream.write(f"{head}data {len(name)}\n{name}\n".encode())


if __name__ == "__main__":
    main()
