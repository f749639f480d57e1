"""A stand-in for SkyPilot's command `sky`, which refuses what that of SkyPilot 0.14 refuses.

Its cloud is the folder $SKY_CLOUD: asked (the arguments of each call), and a folder for each cluster with the synced
work tree. A job goes on without the process that launched it, until `sky down` ends it. `down-fails` in the folder
makes `sky down` fail.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import yaml

CLOUD = Path(os.environ.get("SKY_CLOUD", "/nowhere"))
NAME = re.compile(r"[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?")
KEYS = {  # of sky.utils.schemas.get_task_schema
    "api_server_access", "config", "envs", "event_callback", "file_mounts", "file_mounts_mapping", "inputs",
    "managed_secrets", "name", "num_nodes", "outputs", "pool", "resources", "run", "secrets", "service", "setup",
    "volume_mounts", "volumes", "workdir",
}  # fmt: skip


def install(folder: Path) -> dict[str, str]:
    """Put `sky` into ``folder``; the environment that finds it first, with an empty cloud."""
    (folder / "bin").mkdir(parents=True)
    (folder / "cloud").mkdir()
    script = folder / "bin" / "sky"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "SKY_CLOUD": str(folder / "cloud")}


@click.group()
def sky() -> None:
    """Write down what was asked."""
    if os.environ.get("SKYPILOT_API_SERVER_ENDPOINT") == "":
        raise click.ClickException("SKYPILOT_API_SERVER_ENDPOINT is set to an empty value")
    with (CLOUD / "asked").open("a") as asked:
        print(*sys.argv[1:], file=asked)


@sky.command()
@click.argument("entrypoint")
@click.option("--cluster", "-c", required=True)
@click.option("--env", multiple=True)
@click.option("--secret", multiple=True)
@click.option("--yes", "-y", is_flag=True)
def launch(entrypoint: str, cluster: str, env: tuple[str, ...], secret: tuple[str, ...], yes: bool) -> None:
    """Run a task on a new cluster, and stream its log."""
    task: dict[str, Any] = yaml.safe_load(Path(entrypoint).read_text())
    assert yes or input("Launching a new cluster. Proceed? [Y/n]: ") == "Y"
    if unknown := set(task) - KEYS:
        raise click.ClickException(f"Invalid task YAML: {unknown}")
    if not NAME.fullmatch(cluster):
        raise click.ClickException(f'Cluster name "{cluster}" is invalid')
    given = {**task.get("envs", {}), **_pairs(env)}
    hidden = {**task.get("secrets", {}), **_pairs(secret)}
    for name, value in (given | hidden).items():
        if value is None:
            raise click.ClickException(f"Environment variable {name!r} is None. Please set a value for it")
    node = CLOUD / cluster
    _sync(Path(task["workdir"]), node / "sky_workdir")
    variables = {"PATH": os.environ["PATH"], "HOME": str(node), **{k: str(v) for k, v in (given | hidden).items()}}
    # The job writes its own number, and before its first line: whoever sees it at work can end it.
    job = ["bash", "-c", 'echo $$ > "$0"; exec bash -c "$1"', str(node / "pid"), task["run"]]
    code = subprocess.run(job, cwd=node / "sky_workdir", env=variables, start_new_session=True, check=False).returncode
    sys.exit(100 if code else 0)


@sky.command()
@click.argument("clusters", nargs=-1)
@click.option("--yes", "-y", is_flag=True)
def down(clusters: tuple[str, ...], yes: bool) -> None:
    """End the clusters and what runs on them."""
    assert yes or input("Terminating 1 cluster. Proceed? [Y/n]: ") == "Y"
    if (CLOUD / "down-fails").exists():
        raise click.ClickException("Failed to terminate: the cloud does not answer")
    for name in clusters:
        if not (CLOUD / name).exists():
            click.echo("Cluster(s) not found (tip: see `sky status`).")
            continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((CLOUD / name / "pid").read_text()), signal.SIGKILL)
        shutil.rmtree(CLOUD / name)


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise click.UsageError(f"{name} is not set in local environment.")
        found[name] = value if equals else os.environ[name]
    return found


def _sync(source: Path, target: Path) -> None:
    """As rsync with the rules of .gitignore: what git ignores stays behind, and .git comes along."""
    listed = ["git", "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"]
    said = subprocess.run(listed, cwd=source, check=True, capture_output=True, text=True).stdout
    ignored = {source / name.rstrip("/") for name in said.split("\0") if name}
    shutil.copytree(
        source, target, symlinks=True, ignore=lambda at, names: {name for name in names if Path(at) / name in ignored}
    )


if __name__ == "__main__":
    sky()
