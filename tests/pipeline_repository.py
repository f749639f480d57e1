"""A git and DVC repository with this pipeline's code, a tiny model and a small table of rows."""

import contextlib
import copy
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.code import lock
from checks.storage import digest, layout
from release.record import looks, references
from release.record.records import Records
from tests import warm
from tests.conftest import REPOSITORY, scaled_down, written
from tests.once import once

SERVICES = {
    "vm": ["virtual machine", "disk snapshot", "machine image", "boot log"],
    "storage": ["blob container", "storage queue", "file share", "storage account"],
    "network": ["virtual network", "load balancer", "public address", "dns zone"],
    "acr": ["container registry", "registry task", "image tag", "webhook"],
}
VERBS = ["List every", "Create a new", "Delete the old", "Show details of the", "Rename a", "Export the", "Audit this"]
LOADER = {
    "kind": "table",
    "files": "*.jsonl",
    "columns": {"prompt": "prompt", "reference": "reference", "slice": "slice"},
    "instruction": "Name the service.",
}


def table() -> list[dict[str, str]]:
    """116 rows of prompt, reference and slice, four with prompts of one word; no two are near-duplicates at 0.9."""
    one_word = [{"prompt": f"{service}_Get", "reference": service, "slice": "show"} for service in SERVICES]
    return one_word + [
        {"prompt": f"{verb} {thing} for team {i}{j}", "reference": service, "slice": verb.split()[0].lower()}
        for service, things in SERVICES.items()
        for i, thing in enumerate(things)
        for j, verb in enumerate(VERBS)
    ]


def make(
    root: Path,
    base: Path,
    document: dict[str, Any],
    rows: list[dict[str, str]],
    code: Iterable[str] = ("checks", "stages", "release"),
) -> None:
    """Lay out code, sources and parameters below ``root`` and commit them."""
    for folder in code:
        # With the bytecode, which holds for a copy: each stage would compile every module anew.
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(REPOSITORY / ".dvc" / name, root / ".dvc" / name)
    shutil.copytree(base, root / "sources" / "base")
    data = root / "sources" / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document["base"] |= {
        "uri": "sources/base",
        "sha256": digest.of_tree(root / "sources" / "base").digest.removeprefix("sha256:"),
    }
    document["data"] |= {"uri": "sources/rows.jsonl", "sha256": digest.of_file(data).sha256.removeprefix("sha256:")}
    document["prepare"] |= {
        "loader": copy.deepcopy(LOADER),
        "rules": ["collapse-white-space", "drop-empty-prompt", "drop-duplicates"],
        "near_duplicates": {"shingle": 5, "similarity": 0.9},
        "splits": {"valid": 0.1, "test": 0.25},
    }
    document["validate"] |= {"labels": {"max_distinct": 4, "min_share": 0.05, "max_share": 0.6}}
    for name, number in document["serve"]["probes"].items():  # the stage probe asks for one token at a time
        document["serve"]["probes"][name] = min(number, 8)
    write_params(root, document)
    git(root, "init", "--quiet", "--initial-branch=main")
    # As in a repository made from this one: noise that was measured, of another base.
    (root / layout.REPORTS).mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / layout.NOISE, root / layout.NOISE)
    references.write(Records(root))
    looks.write(Records(root))
    commit(root, "start")


def copied(root: Path, to: Path) -> Path:
    """Copy a repository. Its bytecode, which Python replaces and never writes into, is linked."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".pyc"):
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    return Path(shutil.copytree(root, to, symlinks=True, copy_function=copy))


# Makes a stage write which files had a function that was called after the parameters were read. A call that an import makes
# does not count, because all kinds are imported wherever one is used. Nor does one of what validates parameters or tells
# MLflow. The stage writes it where TRACES says, if that is set.
_TRACER = """

_untraced = run


def run(name: str, stage: Stage, unneeded: Iterable[str] = ()) -> None:
    import json, threading

    root, called = f"{os.getcwd()}{os.sep}", set()

    without_effect = ("stages/tracking/", "checks/config/params.py", "checks/config/pipeline_params.py")

    def uncounted(frame):
        while frame is not None and frame.f_code.co_name != "<module>":
            if frame.f_code.co_filename.removeprefix(root).startswith(without_effect):
                return True
            frame = frame.f_back
        return frame is not None and frame.f_globals["__name__"] != "__main__"

    def trace(frame, event, argument):
        code = frame.f_code
        if code.co_filename.startswith(root) and code.co_filename not in called:
            # Where parameters are copied, a gate's serializer writes them.
            if code.co_flags & 1 and code.co_name != "_without_no_suite" and not uncounted(frame):
                called.add(code.co_filename)

    def traced(params, folder):
        threading.settrace(trace)
        sys.settrace(trace)
        try:
            return stage(params, folder)
        finally:
            sys.settrace(None)
            files = sorted(path.removeprefix(root) for path in called)
            Path(os.environ["TRACES"], f"{name}.json").write_text(json.dumps(files))

    _untraced(name, traced if "TRACES" in os.environ else stage, unneeded)
"""


def finished(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """Return a repository in which the pipeline has run once, and ``traces`` beside it, of each stage. Read-only by custom."""
    return once(tmp_path_factory, "finished", functools.partial(_run_traced, base)) / "repository"


def _run_traced(base: Path, folder: Path) -> None:
    root, traces = folder / "repository", folder / "traces"
    root.mkdir(parents=True)
    traces.mkdir()
    make(root, base, scaled_down(), table())
    with (root / "stages" / "entry.py").open("a") as stream:
        stream.write(_TRACER)
    commit(root, "traced")
    assert repro(root, TRACES=str(traces)) == [name for name in lock.READS if name != lock.STAGE]


def write_params(root: Path, document: dict[str, Any]) -> None:
    """Write params.yaml."""
    (root / "params.yaml").write_text(written(document))


def git(root: Path, *args: str) -> str:
    """Run git as a fixed author."""
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *args], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, message: str) -> None:
    """Commit everything that is not ignored."""
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "-m", message)


def environment(**more: str) -> dict[str, str]:
    """This interpreter first on the path, MLflow's default store, no network."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    return kept | {"PATH": path, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"} | more


def interpreter(**more: str) -> str:
    """What a process with ``environment()`` runs stages and DVC with: it has their libraries loaded."""
    return str(warm.python(environment(**more)))


@contextlib.contextmanager
def forked_ranks(**more: str) -> Iterator[None]:
    """Ranks of a training in this process are forked from one that has loaded torch: their hashes have one seed."""
    python = interpreter(**more)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(PYTHONPATH=str(REPOSITORY), **more).items():
            patch.setenv(name, value)
        patch.setattr(sys, "executable", python)
        yield


def script(program: str, *arguments: str) -> list[str]:
    """The command of a process with ``environment()`` that runs a program as ``python -c`` does, and need not load torch."""
    return [interpreter(), "-m", "tests.script", program, *arguments]


def dvc(root: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run DVC; the caller looks at the return code."""
    python = interpreter()
    code = {"PYTHONPATH": str(root.resolve())} if (root / "stages").is_dir() else {}  # `python -P` asks for it
    given = environment(**code | env)
    given["PATH"] = os.pathsep.join([str(Path(python).parent), given["PATH"]])
    command = [python, "-m", "dvc", *args]
    return subprocess.run(command, cwd=root, env=given, capture_output=True, text=True, check=False)


def repro(root: Path, *args: str, **env: str) -> list[str]:
    """``./lockstep run``, which must end well; the stages that ran, in order."""
    done = dvc(root, "repro", *args, **env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return ran(done)


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The stages that DVC says it ran, without the one that always runs."""
    return [stage for stage in re.findall(r"Running stage '(\w+)'", done.stdout) if stage != lock.STAGE]
