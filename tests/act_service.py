"""Runs a repository's workflow files under nektos/act, jobs as processes of this machine, without the network.

They may call the workflows of this repository, as it is now, by the name LOCKSTEP at COMMIT. Jobs have its wheel installed.

What act does itself: events, `if`, `needs`, outputs, expressions, composite actions, environment files, summaries. What is
GitHub's alone it does not do, and tests hold the files to it instead: permissions, environments with their secrets and
reviewers, concurrency, timeouts, path filters, and that a fork's run gets no secret (``Act.run(secrets=...)`` says which).
Actions of others are stood in for by tests/actions; `actions/checkout` clones the bare repository that ``origin`` names.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import yaml

from checks.process import distribution
from release.adapters import pin
from tests import sigstore_of_jobs, warm
from tests.conftest import REPOSITORY

ACTIONS = REPOSITORY / "tests" / "actions"
PROGRAM = Path(sys.executable).parent / "act"
LOCKSTEP, COMMIT = "tools/lockstep", "0123456789abcdef0123456789abcdef01234567"
_USES = re.compile(r"^\s*(?:-\s*)?uses:\s*[\"']?([\w.-]+)/([\w.-]+)((?:/[\w.-]+)*)@(\S+?)[\"']?\s*(?:#.*)?$", re.M)
_LONGEST = 600  # seconds of one run
Conclusion = Literal["success", "failure", "skipped", "cancelled"]
Line = dict[str, Any]


class Step(NamedTuple):
    """``seconds`` by act's own clock. A step that its `if` passed over is not there: act does not speak of it."""

    name: str
    outcome: Conclusion
    seconds: float


class Job(NamedTuple):
    """``log``: what its steps printed. ``summary``: its part of the run's page. ``stages``: seconds of each that DVC ran."""

    conclusion: Conclusion
    steps: tuple[Step, ...] = ()
    log: str = ""
    summary: str = ""
    seconds: float = 0.0
    stages: Mapping[str, float] = MappingProxyType({})

    def step(self, name: str) -> Step | None:
        return next((each for each in self.steps if each.name == name), None)


class Run(NamedTuple):
    """``jobs`` by their names in the file, skipped ones too. ``text``: everything that act said, secrets masked."""

    jobs: dict[str, Job]
    seconds: float
    text: str

    def conclusions(self) -> dict[str, Conclusion]:
        return {name: job.conclusion for name, job in self.jobs.items()}


@dataclass
class Act:
    """One repository on the stand-in for GitHub.

    ``folder``: for HOME, work trees, artifacts. ``origin``: the bare repository. ``api``: the stand-in's address.
    ``variables`` are the repository's, ``secrets`` what a run of its own branches gets, ``environment`` the machine's.
    """

    folder: Path
    origin: Path
    api: str
    repository: str
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    loaded: bool = False  # jobs run stages in an interpreter that has torch loaded
    wheel: Path = Path()  # of this repository: what an environment is made with
    runs: int = 0
    _server: subprocess.Popen[bytes] | None = None

    def run(
        self,
        workflow: str,
        event: str,
        payload: Mapping[str, Any],
        sha: str,
        *,
        secrets: Mapping[str, str] | None = None,
        watch: Callable[[Line], object] = lambda _: None,
    ) -> Run:
        """Run ``.github/workflows/WORKFLOW`` as it is in commit ``sha``, for an event with this payload.

        ``watch`` is given each line of act as it comes, and may call ``kill``.
        """
        self.runs += 1
        place = self.folder / f"run-{self.runs}"
        tree = place / "tree"
        place.mkdir(parents=True)
        _git(self.folder, "clone", "--quiet", "--no-checkout", str(self.origin), str(tree))
        _git(tree, "checkout", "--quiet", "--detach", sha)
        read = tree / ".github" / "workflows" / workflow
        shared = place / "lockstep"
        shutil.copytree(REPOSITORY / ".github", shared / ".github")
        for file in sorted(place.glob("*/.github/workflows/*.yml")):
            file.write_text(_as_act_knows(file.read_text()))
        (place / "event.json").write_text(json.dumps(payload))
        given = self.secrets if secrets is None else secrets
        (place / "secrets").write_text("".join(f"{name}={json.dumps(value)}\n" for name, value in given.items()))
        command = [str(PROGRAM), event, "-C", str(tree), "-W", f".github/workflows/{workflow}", "--json", "--rm"]
        command += ["-e", str(place / "event.json"), "--secret-file", str(place / "secrets"), "--pull=false"]
        command += ["--no-cache-server", "--no-skip-checkout", "--action-offline-mode", "--actor", "ada"]
        command += ["--action-cache-path", str(place / "hosts")]
        for label in ("ubuntu-latest", "self-hosted", "gpu"):
            command += ["-P", f"{label}=-self-hosted"]
        for uses, stand_in in _stand_ins(place).items():
            command += ["--local-repository", f"{uses}={stand_in}"]
        for name, value in self.variables.items():
            command += ["--var", f"{name}={value}"]
        ref = payload.get("ref") or (
            f"refs/pull/{payload['number']}/merge" if "number" in payload else "refs/heads/main"
        )
        started = f"{self.repository}/.github/workflows/{workflow}@{ref}"
        jobs = _jobs(read, started, shared)
        who = {"GITHUB_WORKFLOW_REF": started, "LOCKSTEP_ACT_JOBS": json.dumps(jobs)}
        for name, value in (self._steps(place) | who | self.environment).items():
            command += ["--env", f"{name}={value}"]
        began = time.monotonic()
        lines = self._watched(command, watch)
        text = "".join(f"{line.get('jobID', '')}: {line['msg']}".rstrip() + "\n" for _, line in lines)
        return Run({name: _job(name, lines) for name in jobs}, time.monotonic() - began, text)

    def _steps(self, place: Path) -> dict[str, str]:
        """What the environment of each step has besides what act gives it."""
        return {
            "GITHUB_API_URL": self.api,
            "GITHUB_REPOSITORY": self.repository,
            "GITHUB_RUN_ID": str(self.runs),
            "LOCKSTEP_ACT_ACTIONS": str(ACTIONS),
            "LOCKSTEP_ACT_ORIGIN": str(self.origin),
            "LOCKSTEP_ACT_STORE": str(place / "artifacts"),
            "LOCKSTEP_VENV": str(self.venv()),
        }

    def venv(self) -> Path:
        """An environment that has this repository's wheel, and what this interpreter has besides.

        Of its own: what sets it up anew would otherwise write into the environment that the tests run in.
        """
        folder = self.folder / "venv"
        if folder.exists():
            return folder
        venv.create(folder, symlinks=True)
        options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
        install = ["-m", "pip", "--python", str(folder / "bin" / "python"), "install", *options, str(self.wheel)]
        subprocess.run([sys.executable, *install], check=True, capture_output=True)
        (packages,) = folder.glob("lib/python3.*/site-packages")
        sigstore_of_jobs.prepare(packages, self.folder / "sigstore")
        (packages / "those-of-the-tests.pth").write_text(f"{_of_the_tests(folder / 'those-of-the-tests')}\n")
        for program in Path(sys.executable).parent.iterdir():
            if not (folder / "bin" / program.name).exists():
                (folder / "bin" / program.name).symlink_to(program)
        if self.loaded:
            (folder / "bin" / "python").unlink()
            self._server = warm.start(folder / "bin" / "python", self.machine())
            (folder / "bin" / "transformers").unlink()
            (folder / "bin" / "transformers").symlink_to(warm.serving().with_name("transformers"))
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        (folder / f".lockstep-{','.join(sorted(extras))}").write_text(hashlib.sha256(self.pin().encode()).hexdigest())
        return folder

    def pin(self) -> str:
        """Return the lockstep-requirements.txt that pins the wheel."""
        sha256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        return pin.written(pin.Pin(pin.EXTRAS, distribution.version(), (sha256,)))

    def machine(self) -> dict[str, str]:
        """The environment that act, and so every job, is started with."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        dead = "http://127.0.0.1:9"
        return {
            "HOME": str(home),
            "TMPDIR": str(self.folder / "tmp"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "LANG": "C.UTF-8",
            "GIT_PAGER": "cat",
            "GIT_TERMINAL_PROMPT": "0",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "http_proxy": dead,
            "https_proxy": dead,
            "no_proxy": "127.0.0.1,localhost",
        } | {name: value for name, value in os.environ.items() if name == "LD_PRELOAD"}

    def _watched(self, command: list[str], watch: Callable[[Line], object]) -> list[tuple[float, Line]]:
        """Act's lines with the seconds at which they came. Raises AssertionError for what is no such line."""
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self.machine(),
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stdout is not None
        lines, began, stray = [], time.monotonic(), []
        try:
            for text in process.stdout:
                try:
                    line = json.loads(text)
                except ValueError:
                    stray.append(text)
                    continue
                lines.append((time.monotonic() - began, line))
                watch(line)
                assert time.monotonic() - began < _LONGEST, text
        except BaseException:
            self.kill()
            raise
        finally:
            process.stdout.close()
            process.wait(60)
        assert process.returncode == 0 or any("jobID" in line for _, line in lines), "".join(stray)
        return lines

    def kill(self) -> None:
        """The machine dies: act and every process of its jobs, at once.

        What they were forked from lives, has none of their state, and takes seconds to start.
        """
        while left := self.processes():  # what one of them started meanwhile, too
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)

    def processes(self) -> list[int]:
        """Act and what its jobs started, by this folder's HOME in their environment."""
        mark, found = f"HOME={self.folder / 'home'}\0".encode(), []
        server = str(self._server.pid) if self._server else ""
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if path.parent.name != server and mark in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found


def _as_act_knows(text: str) -> str:
    """Return a workflow without what act does not know. Jobs check out the file as it is.

    It knows neither environments nor concurrency, and its schema no `deployment` and no `queue`. `$/`, and `./` of a
    called workflow, are the repository and the commit that a file is of.
    """
    text = re.sub(r"environment: \{name: ([\w-]+), deployment: false\}", r"environment: \1", text)
    text = re.sub(r"^  queue: max\n", "", text, flags=re.M)
    return re.sub(r"uses: [$.]/(\S+)", rf"uses: {LOCKSTEP}/\1@{COMMIT}", text)


def _jobs(workflow: Path, identity: str, shared: Path) -> dict[str, str]:
    """Return in which file at which ref or commit each job stands. A job that calls a workflow is the jobs there."""
    jobs = dict[str, str]()
    for name, job in yaml.safe_load(workflow.read_text())["jobs"].items():
        if "uses" in job:
            jobs |= _jobs(shared / job["uses"].removeprefix(f"{LOCKSTEP}/").partition("@")[0], job["uses"], shared)
        else:
            jobs[name] = identity
    return jobs


def _stand_ins(place: Path) -> dict[str, Path]:
    """The folder for every action of another repository that the workflows and actions below ``place`` use."""
    found = {}
    for path in sorted(place.glob("*/.github/**/*.y*ml")):
        for owner, name, _, ref in _USES.findall(path.read_text()):
            stand_in = ACTIONS / name
            if f"{owner}/{name}" == LOCKSTEP:
                stand_in = place / "lockstep"
            else:
                assert (stand_in / "action.yml").is_file(), (
                    f"{path}: nothing in tests/actions stands in for {owner}/{name}"
                )
            found[f"{owner}/{name}@{ref}"] = stand_in
    return found


def _of_the_tests(folder: Path) -> Path:
    """Make a folder of links to this interpreter's packages, without Lockstep and the packages of kinds of `examples`."""
    folder.mkdir()
    for package in (path for place in site.getsitepackages() for path in Path(place).glob("*")):
        if not package.name.startswith(("lockstep_", "__editable__", "__pycache__")):
            (folder / package.name).symlink_to(package)
    return folder


def _job(name: str, lines: list[tuple[float, Line]]) -> Job:
    """What act said of one job."""
    mine = [(at, line) for at, line in lines if line.get("jobID") == name]
    if not mine:
        return Job("skipped")
    # A killed run says no result.
    results: list[Conclusion] = [line["jobResult"] for _, line in mine if "jobResult" in line]
    result: Conclusion = "failure" if "failure" in results else next(iter(results), "cancelled")
    steps = [
        Step(line["step"], line["stepResult"], line.get("executionTime", 0) / 1e9)
        for _, line in mine
        if "stepResult" in line and line.get("stage") == "Main" and len(line["stepID"]) == 1
    ]
    log = "".join(line["msg"] for _, line in mine if line.get("raw_output"))
    summary = "".join(line["content"] for _, line in mine if line.get("command") == "summary")
    return Job(result, tuple(steps), log, summary, mine[-1][0] - mine[0][0], _stages(mine))


_NO_STAGES = ("sources", "pull", "push", "tracking")  # other steps of `lockstep run`


def _stages(lines: list[tuple[float, Line]]) -> dict[str, float]:
    """From the line with which `lockstep run` begins a stage to the one with its result; 0 where that never comes."""
    found: dict[str, float] = {}
    name, began = "", 0.0
    for at, line in lines:
        if running := re.fullmatch(r" *> (\w+)", line["msg"].rstrip()):
            name, began = running[1], at
            if name not in _NO_STAGES:
                found[name] = 0.0
        elif name in found and re.match(rf" *[✓✗] {name} ", line["msg"]):
            found[name], name = at - began, ""
    return found


def _git(folder: Path, *args: str) -> str:
    git = shutil.which("git")
    assert git
    return subprocess.run([git, *args], cwd=folder, check=True, capture_output=True, text=True).stdout
