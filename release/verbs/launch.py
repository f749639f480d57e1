"""launch: has a cluster run the pipeline, and takes the record from the DVC remote; hand_over: the cluster's side."""

import re
import secrets
import tempfile
from pathlib import Path

from checks.formats.training_reports import TrainReport
from checks.process.errors import EvidenceRefused, MachineRefused, ParamsRefused, RemoteRefused
from checks.storage import digest, files, layout
from release.adapters import commits, dvc, skypilot
from release.adapters.listening import Listener
from release.record import hand_over as handed
from release.record.records import Records
from release.verbs import run

_JOB = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # becomes a folder on the DVC remote
_HEAD = "run it at the top of a clone with a commit: the cluster gets this folder with its .git"


def launch(
    root: Path, task: Path, targets: tuple[str, ...], listener: Listener | None = None
) -> None:
    """Run the pipeline, or the part up to ``targets``, as ``task`` of SkyPilot, and bring its record and outputs here.

    What DVC prints here is given to ``listener``; what SkyPilot prints is shown.

    Raises as ``skypilot.run``; MachineRefused without a commit, without a DVC remote, or if the job handed over no
    record; StageRefused if a stage refused there; EvidenceRefused if the record is not of HEAD and of what lies here;
    RemoteRefused if the DVC remote is cloud-versioned or does not have the outputs.
    """
    commit = _head(root)
    if not dvc.has_remote(root):
        raise MachineRefused(
            "DVC has no remote here, and the cluster hands its record over there",
            "name one that both reach: ./lockstep dvc remote add --default NAME URL",
        )
    job = f"lockstep-{commit[:12]}-{secrets.token_hex(4)}"
    code = skypilot.run(
        root, task, job, {"LOCKSTEP_JOB": job, "LOCKSTEP_STAGES": " ".join(targets)}
    )
    with tempfile.TemporaryDirectory(prefix="lockstep-job-") as scratch:
        _transfer(root, "take", job, Path(scratch), listener)
        unpacked = handed.unpack(Records(root).work_tree, Path(scratch), commit)
    if unpacked is None:
        what = f"{task}: the job ended well and handed over no record"
        todo = "end its run section with `./lockstep run --hand-over`, as docs/clusters/launcher.yaml does"
        if code:
            what = f"sky launch ended with {code}: the job failed, was preempted or ran out of time"
            todo = "read its lines above; run the same command again, and training goes on from its last checkpoint"
        raise MachineRefused(what, todo)
    if unpacked.refused:
        raise dvc.StageRefused(unpacked.refused)
    _take_outputs(root, targets, listener)


def hand_over(
    root: Path, job: str, targets: tuple[str, ...], listener: Listener | None = None
) -> None:
    """Run the pipeline, share its outputs on the DVC remote, and put its record there as ``job``.

    A stage that refuses is part of the record. Raises what else ``run.run`` raises, and then nothing is handed over;
    ParamsRefused for a ``job`` that ``launch`` did not name.
    """
    if not _JOB.fullmatch(job):
        raise ParamsRefused(
            f"--hand-over {job!r}: is no name of a job", "pass on $LOCKSTEP_JOB of the task"
        )
    commit, word = _head(root), None
    try:
        run.run(root, targets, force=False, remote=True, listener=listener)
    except dvc.StageRefused as refusal:
        word = refusal.word
    with tempfile.TemporaryDirectory(prefix="lockstep-job-") as scratch:
        handed.pack(Records(root).work_tree, Path(scratch), commit, word)
        _transfer(root, "put", job, Path(scratch), listener)


def _head(root: Path) -> str:
    commit = commits.resolve(root, "HEAD") if (root / ".git").is_dir() else None
    if commit is None:
        raise MachineRefused(f"{root.resolve()}: has no .git folder with a commit", _HEAD)
    return commit


def _transfer(root: Path, way: str, job: str, folder: Path, listener: Listener | None) -> None:
    arguments, more = ["-m", "stages.hand_over", way, job, str(folder)], {dvc.REMOTE: "1"}
    dvc.python(root, arguments, "the hand-over", more, listener=listener, step="hand-over")


def _take_outputs(root: Path, targets: tuple[str, ...], listener: Listener | None = None) -> None:
    """Fetch what the new dvc.lock names, and hold all of it to what lies here: DVC by MD5, the adapter by SHA-256."""
    wanted = [*(["--with-deps"] if targets else []), "--", *targets]
    if code := dvc.dvc(root, "pull", *wanted, listener=listener):
        raise RemoteRefused(
            f"dvc pull ended with {code}: the DVC remote does not have what the record names",
            "read its lines above; do both reach the same remote? ./lockstep dvc remote list",
        )
    if stale := dvc.stale(root, targets):
        raise EvidenceRefused(
            f"the record is not of what lies here: {stale}",
            "leave the work tree alone while a job runs, and run it again",
        )
    if (root / layout.TRAIN_REPORT).exists() and (root / layout.ADAPTER).is_dir():
        named = files.read_json(root / layout.TRAIN_REPORT, TrainReport).adapter
        if (actual := digest.of_tree(root / layout.ADAPTER).digest) != named:
            raise EvidenceRefused(
                f"{layout.ADAPTER}: is {actual}, and {layout.TRAIN_REPORT} names {named}",
                "the DVC remote has other bytes than the job made: find out who wrote there",
            )
