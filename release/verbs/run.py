"""run: runs the pipeline through DVC, up to a verdict.

With `--launcher` a cluster runs it, and the record comes from the DVC remote; `--hand-over` is the cluster's side.
"""

import re
import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from checks.config import params_file
from checks.formats.evaluation_reports import EvaluationReport, NoiseReport
from checks.formats.training_reports import TrainReport
from checks.process.errors import EvidenceRefused, MachineRefused, ParamsRefused, RemoteRefused
from checks.storage import digest, files, layout
from release.adapters import commits, dvc, skypilot
from release.adapters.listening import Listener
from release.evidence import harvest_reviews
from release.record import hand_over as handed_over
from release.record import kept_answers, looks, references
from release.record.records import Records

_JOB = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")  # A job's name becomes a folder on the DVC remote.
_HEAD = "run it at the top of a clone with a commit: the cluster gets this folder with its .git"


def run(
    root: Path,
    targets: tuple[str, ...],
    force: bool,
    remote: bool = False,
    listener: Listener | None = None,
) -> None:
    """Check local sources against their pins, find the reference models and the looks in git, then run ``dvc repro``.

    Runs what changed; with ``force`` everything. DVC tracks params.yaml but not the local files that it names, so an
    edited source would go unnoticed. A missing source is left to the stage fetch, if that has to run.

    ``remote``: fetch the outputs in dvc.lock from the DVC remote first, and push new outputs, also after a stage
    refuses. Without a configured remote nothing is shared.

    What DVC and the stages print is given to ``listener``; without one it is printed.

    If the run makes another model than the references were found for, it is compared again. MLflow is told the verdict
    if the run trained or judged; a store that does not answer costs one line.

    Raises StageRefused with the stage's exit code, MachineRefused if DVC itself cannot run, EvidenceRefused if git
    cannot say which models were released or reports/noise.json is missing, RemoteRefused if the DVC remote is
    cloud-versioned or the push to it fails.
    """

    def python(
        step: str, arguments: list[str], name: str, more: dict[str, str] | None = None
    ) -> None:
        dvc.python(root, arguments, name, more, listener=listener, step=step)

    def share(*arguments: str) -> int:
        return dvc.dvc(root, *arguments, listener=listener)

    if _lacks_noise(root) and (not targets or "gate" in targets):
        raise EvidenceRefused(
            f"{layout.NOISE}: is missing, and the stage gate reads it",
            f"run `git checkout HEAD -- {layout.NOISE}`",
        )
    shared = remote and dvc.has_remote(root)
    harvest_reviews.check_work_tree(root, params_file.load(root / layout.PARAMS))
    with ThreadPoolExecutor(1) as pool:
        # DVC compares the files that this writes. If one of them changes, DVC runs whatever it says now.
        asked = pool.submit(_ask_git, root)
        has_to_run = dvc.stale(root, targets, listener) is not None
    has_to_run |= force or shared or asked.result()
    wanted = [*(["--with-deps"] if targets else []), "--", *targets]
    # What the remote lacks is made again: the lines of DVC say so, and the push asks once more.
    if shared:
        share("pull", "--allow-missing", *wanted)
    before = _decided(root)
    repro, more = [*dvc.MODULE, "repro"], {dvc.REMOTE: "1"} if shared else {}
    try:
        if has_to_run:
            python("", [*repro, *(["--force"] if force else []), "--", *targets], "dvc repro", more)
            if _ask_git(root):
                python("", [*repro, "--", *targets], "dvc repro", more)
    except dvc.StageRefused:
        if shared:
            share("push")
        raise
    kept_answers.keep(root)
    after = _decided(root)
    if None not in after and after != before:
        python("tracking", ["-m", "stages.tracking.verdict"], "telling MLflow the verdict")
    if shared and (code := share("push", *wanted)):
        raise RemoteRefused(
            f"dvc push ended with {code}",
            "read its lines above; once the remote accepts it, run `./lockstep dvc push` and go on",
        )


def _lacks_noise(root: Path) -> bool:
    """Tell whether the stage gate would lack reports/noise.json, which no stage makes. DVC names no remedy."""
    pipeline, noise = root / layout.PIPELINE, layout.NOISE.as_posix()
    return (
        pipeline.is_file()
        and noise in pipeline.read_text(encoding="utf-8")
        and not (root / noise).is_file()
    )


def is_noise_unknown(root: Path) -> bool:
    """Tell whether reports/noise.json is not about the last evaluation's base, scorers and prompt format."""
    evaluation = evaluated(root)
    try:
        noise = files.read_json(root / layout.NOISE, NoiseReport)
    except EvidenceRefused:
        return evaluation is not None
    return evaluation is not None and any(
        getattr(noise, field) != getattr(evaluation, field)
        for field in ("base", "scorers", "prompt_format")
    )


def evaluated(root: Path) -> EvaluationReport | None:
    """The evaluation of the last run; None if there is none that can be read."""
    try:
        return files.read_json(root / layout.EVALUATION, EvaluationReport)
    except EvidenceRefused:
        return None


def _ask_git(root: Path) -> bool:
    """Write which models git names and which each test split has judged; whether one of the two files changed.

    The answers of these models that git keeps are put into DVC's cache.
    """
    records = Records(root)
    named, judged = references.write(records), looks.write(records)
    kept_answers.bring(root, {model.commit for model in named.report.found.values()})
    return named.changed or judged


def _decided(root: Path) -> list[int | None]:
    """When the training's report and the verdict were written, in nanoseconds; None for one that is missing."""
    paths = (root / layout.TRAIN_REPORT, root / layout.VERDICT)
    return [path.stat().st_mtime_ns if path.is_file() else None for path in paths]


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
        unpacked = handed_over.unpack(Records(root).work_tree, Path(scratch), commit)
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
        run(root, targets, force=False, remote=True, listener=listener)
    except dvc.StageRefused as refusal:
        word = refusal.word
    with tempfile.TemporaryDirectory(prefix="lockstep-job-") as scratch:
        handed_over.pack(Records(root).work_tree, Path(scratch), commit, word)
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
