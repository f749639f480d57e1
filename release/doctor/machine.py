"""Checks what this machine has and lacks for each stage and verb: a table of checks."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from packaging.requirements import Requirement

from checks.config import params_file
from checks.process import distribution
from checks.process.errors import Refusal
from checks.process.text import redact
from checks.storage import layout
from release.adapters import commits, dvc, merge_conflicts, process
from release.doctor.check import Check, Lesser, Wanted, walk, want
from release.runtimes import lookup

STAGES = (
    "fetch",
    "prepare",
    "validate",
    "train",
    "merge",
    "score",
    "evaluate",
    "suites",
    "probe",
    "gate",
)
NEEDS_TORCH = ("fetch", "train", "merge", "score", "evaluate", "suites", "probe")
DISK_GB = 5  # environment, base model, merged model and DVC's copies at the default size
# Packages that DVC needs for a remote, by the scheme of its address.
_PACKAGED = {name: name for name in ("s3", "gs", "azure", "gdrive", "hdfs", "oss", "ssh", "webdav")} | {
    "webdavs": "webdav", "webhdfs": "hdfs",
}  # fmt: skip

DEADLINE = 5  # seconds for anything that answers over a network


def doctor(root: Path) -> list[Check]:
    """Run all checks. Missing things are findings, so nothing is raised for them."""
    return list(walk(WANTED, root))


def _python(_: Path) -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    want(sys.version_info >= (3, 11), version, "install Python 3.11 or newer")
    return version


def _git(root: Path) -> str:
    want(shutil.which("git"), "no git on the path", "install git")
    head = commits.resolve(root, "HEAD") if commits.has_repository(root) else None
    merge_conflicts.check(root)
    fix = "git init && git add . && git commit"
    return f"at {want(head, 'not a repository with a commit', fix)[:7]}"


def _params(root: Path) -> str:
    params_file.load(root / layout.PARAMS)
    return "reads well"


def _server(root: Path) -> str:
    """The runtime that params.yaml names. Raises Finding if there is none, Lesser if it is archived."""
    runtime = lookup.here(root, params_file.load(root / layout.PARAMS).serve.runtime)
    if runtime.archived:
        raise Lesser(
            f"{runtime.name}: archived {runtime.archived}",
            "set serve.runtime to vllm for a new model: docs/reference/runtimes.md",
        )
    return runtime.name


def _packages(_: Path) -> str:
    """Check all packages of the extra ``pipeline``. Raises Finding with those that are missing or out of range."""
    wrong = []
    for text in metadata.requires(distribution.NAME) or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": "pipeline"}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} absent")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    want(not wrong, ", ".join(wrong), distribution.install("pipeline"))
    return "all of the extra pipeline"


def _torch(_: Path) -> str:
    """Query torch in a separate process, because the release tool never imports it."""
    probe = (
        "import torch, json; g = torch.cuda.is_available(); print(json.dumps([torch.__version__, "
        "torch.cuda.get_device_name() if g else None, torch.get_num_threads()]))"
    )
    answer = want(
        ask([sys.executable, "-c", probe], 120), "does not import", distribution.install("pipeline")
    )
    version, gpu, threads = json.loads(answer)
    return f"{version} on {gpu or f'the CPU, {threads} threads'}"


def _disk(root: Path) -> str:
    free = shutil.disk_usage(root).free / 1e9
    fix = f"free {DISK_GB} GB, or `./lockstep dvc gc -w`"
    want(free >= DISK_GB, f"{free:.0f} GB free", fix)
    return f"{free:.0f} GB free"


def _dvc_remote(root: Path) -> str:
    config = dvc.settings(root)
    addresses = [
        value for key, value in config.items() if key.startswith("remote.") and key.endswith(".url")
    ]
    if not addresses:
        raise Lesser("none configured", "./lockstep dvc remote add -d storage URL")
    try:
        name = dvc.default_remote(config)
    except Refusal as refusal:
        raise Lesser(refusal.what, refusal.todo) from None
    address = config.get(f"remote.{name}.url", "")
    package = _PACKAGED.get(urlsplit(address).scheme)
    if package and not importlib.util.find_spec(f"dvc_{package}"):
        is_extra = package in ("s3", "gs")
        raise Lesser(
            f"{redact(address)} needs dvc-{package}, which is not installed",
            distribution.install(package) if is_extra else f"pip install dvc-{package}",
        )
    return "; ".join(map(redact, addresses))


def _mlflow(root: Path) -> str:
    named = os.environ.get("MLFLOW_TRACKING_URI")
    uri = named or params_file.load(root / layout.PARAMS).tracking.uri
    if urlsplit(uri).scheme not in ("http", "https"):
        return f"{redact(uri)}, in this repository"
    state = _http(uri.rstrip("/") + "/health")
    want(
        state == "200", f"{redact(uri)}: {state}", "start the server, or unset MLFLOW_TRACKING_URI"
    )
    return redact(uri)


def _docker(_: Path) -> str:
    import docker
    from docker.errors import DockerException

    try:
        with closing(docker.from_env(timeout=DEADLINE)) as client:
            return f"engine {client.version()['Version']}"
    except (DockerException, OSError) as error:
        reason = str(error).splitlines()[0][:100]
        raise Lesser(
            f"no engine answers: {reason}", "start Docker; releases work without it"
        ) from None


def _http(url: str) -> str:
    """Return the status of a GET as text, or the reason why there is none."""
    try:
        with urlopen(url, timeout=DEADLINE) as answer:  # noqa: S310 - the scheme is http or https, checked by the caller
            return str(answer.status)
    except HTTPError as error:
        return str(error.code)
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


WANTED = (
    Wanted("python", STAGES, _python),
    Wanted("git", STAGES, _git),
    Wanted("params.yaml", STAGES, _params),
    Wanted("packages", STAGES, _packages),
    Wanted("torch", NEEDS_TORCH, _torch),
    Wanted("disk", STAGES, _disk),
    Wanted("DVC remote", ("sharing artifacts", "pull requests"), _dvc_remote),
    Wanted("MLflow", ("train", "evaluate", "promote"), _mlflow),
    Wanted("server", ("build", "verify"), _server),
    Wanted("docker", ("verify", "build with a daemon"), _docker),
)


def ask(command: list[str], deadline: float) -> str | None:
    """Return the stripped standard output of a command; None if it fails, hangs or does not exist."""
    try:
        done = process.run(command, deadline=deadline)
        return done.stdout.decode().strip() if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
