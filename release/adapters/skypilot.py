"""SkyPilot's command line: one task on a cluster that is torn down with it.

The task is a YAML file of SkyPilot's own format. It names secrets, whose values come from the environment.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from checks.process.errors import MachineRefused, ParamsRefused
from checks.storage import plain_yaml
from release.adapters.children import ended_with_this_process

_SERVER = "SKYPILOT_API_SERVER_ENDPOINT"
_KEPT_BY_SKYPILOT = "secrets:"  # how its YAML names a secret that its server knows


def run(root: Path, task: Path, cluster: str, given: Mapping[str, str]) -> int:
    """Run ``task`` in ``root`` with the variables ``given``, and show its log; the exit code of `sky launch`.

    The cluster is torn down whatever happens, also on SIGTERM and Ctrl-C. Raises ParamsRefused for a task that cannot
    be read or has a secret in it; MachineRefused if SkyPilot or a variable is missing, or the cluster may still run.
    """
    sky = shutil.which("sky")
    if sky is None:
        raise MachineRefused(
            "SkyPilot's command sky is not installed",
            "install it beside Lockstep: pipx install 'skypilot[aws]'",
        )
    options = [*_variables(_read(root / task), task, given)]
    command = [sky, "launch", "--yes", "--cluster", cluster, *options, str(task)]
    try:
        with ended_with_this_process():
            return subprocess.run(command, cwd=root, env=_environment(), check=False).returncode
    finally:
        _tear_down(sky, root, cluster)


def _tear_down(sky: str, root: Path, cluster: str) -> None:
    try:
        down = [sky, "down", "--yes", cluster]
        code = subprocess.run(down, cwd=root, env=_environment(), check=False).returncode
    except KeyboardInterrupt:  # a second one
        code = 130
    if code:
        raise MachineRefused(
            f"cluster {cluster}: sky down ended with {code}, so it may still run and cost money",
            f"see it with `sky status`, and end it: sky down {cluster}",
        )


def _environment() -> dict[str, str]:
    """The variables here, without an empty address of a server: a workflow passes an unset variable on as empty."""
    return {name: value for name, value in os.environ.items() if name != _SERVER or value}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = plain_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        document = error.strerror if isinstance(error, OSError) else "is no YAML"
    if not isinstance(document, dict):
        why = document if isinstance(document, str) else "is no task of SkyPilot"
        raise ParamsRefused(
            f"{path}: {why}", "name a task of SkyPilot, such as docs/clusters/launcher.yaml"
        )
    return document


def _variables(task: Mapping[str, Any], path: Path, given: Mapping[str, str]) -> Iterator[str]:
    """The options that give the task its variables: by name if they come from this process's environment."""
    for section, option in (("envs", "--env"), ("secrets", "--secret")):
        named = task.get(section)
        for name, value in named.items() if isinstance(named, dict) else ():
            if value is not None and section == "secrets":
                raise ParamsRefused(
                    f"{path}: secrets.{name}: has a value in the file",
                    "leave it empty, change that secret, and set it in the environment of `lockstep run`",
                )
            if value is not None or name in given or str(name).startswith(_KEPT_BY_SKYPILOT):
                continue
            if name not in os.environ:
                raise MachineRefused(
                    f"{path}: {section}.{name}: the environment has no {name}",
                    f"set it: export {name}=…",
                )
            yield from (option, name)
    for name, value in given.items():
        yield from ("--env", f"{name}={value}")
