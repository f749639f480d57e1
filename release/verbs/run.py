"""run: runs the pipeline through DVC, up to a verdict."""

from pathlib import Path

from checks.config import params_file
from checks.formats.evaluation_reports import EvaluationReport, NoiseReport
from checks.process.errors import EvidenceRefused, RemoteRefused
from checks.storage import files, layout
from release.adapters import dvc
from release.adapters.listening import Listener
from release.evidence import harvest_reviews
from release.record import kept_answers, looks, references
from release.record.records import Records


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
    python("sources", ["-m", "stages.still_pinned"], "the look at local sources")
    _ask_git(root)
    wanted = [*(["--with-deps"] if targets else []), "--", *targets]
    # What the remote lacks is made again: the lines of DVC say so, and the push asks once more.
    if shared:
        share("pull", "--allow-missing", *wanted)
    before = _decided(root)
    repro, more = [*dvc.MODULE, "repro"], {dvc.REMOTE: "1"} if shared else {}
    try:
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
    """Whether the stage gate would lack reports/noise.json, which no stage makes. DVC gives no remedy."""
    pipeline, noise = root / layout.PIPELINE, layout.NOISE.as_posix()
    return (
        pipeline.is_file()
        and noise in pipeline.read_text(encoding="utf-8")
        and not (root / noise).is_file()
    )


def is_noise_unknown(root: Path) -> bool:
    """Whether reports/noise.json is not about the base, the scorers and the prompt format of the last evaluation."""
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
