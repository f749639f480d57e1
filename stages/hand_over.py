"""Bring the record of a launched run to the DVC remote, or from there. `lockstep run` starts it; it is no stage.

    python -m stages.hand_over put JOB FOLDER     on the cluster
    python -m stages.hand_over take JOB FOLDER    where the run was launched

FOLDER has manifest.json and record.tar (``release.record.hand_over``). ``take`` leaves it empty if the remote has no
record of JOB, and deletes what it took from the remote.
"""

from pathlib import Path

import click

from checks.process.errors import RemoteRefused
from stages import entry
from stages.training.remote import Remote

_FOLDER, _ARCHIVE = "record", ["record.tar"]  # on the remote, beside the manifest


def put(root: Path, job: str, folder: Path) -> str:
    """Upload archive and manifest. Raises RemoteRefused."""
    _of(root, job).put(folder, _FOLDER, _ARCHIVE)
    return f"the record of {job} is on the DVC remote"


def take(root: Path, job: str, folder: Path) -> str:
    """Download manifest and archive into ``folder``. Raises RemoteRefused."""
    remote = _of(root, job)
    if not remote.manifest(folder / "manifest.json"):
        return f"the DVC remote has no record of {job}"
    remote.fetch(_FOLDER, _ARCHIVE, folder)
    try:
        remote.remove()
    except RemoteRefused as refusal:
        return f"took the record of {job}, which stays on the DVC remote: {refusal.what}"
    return f"took the record of {job} from the DVC remote"


def _of(root: Path, job: str) -> Remote:
    remote = Remote.of(root, f"lockstep/jobs/{job}")
    if remote is None:
        raise RemoteRefused(
            "DVC has no remote here", "name one: ./lockstep dvc remote add --default NAME URL"
        )
    return remote


@click.command()
@click.argument("way", type=click.Choice(["put", "take"]))
@click.argument("job")
@click.argument("folder", type=click.Path(path_type=Path))
def main(way: str, job: str, folder: Path) -> None:
    """Put the record of JOB in FOLDER on the DVC remote, or take it from there."""
    move = put if way == "put" else take
    entry.run("hand-over", lambda _, root: move(root, job, folder))


if __name__ == "__main__":
    main()
