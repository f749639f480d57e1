"""start_model: the earlier model that training starts from, which params.yaml names by the commit of its record."""

from collections.abc import Iterator

from pydantic import ValidationError

from checks.formats.evaluation_reports import EARLIER
from checks.formats.training_reports import ParityReport, TrainReport
from checks.process.errors import EvidenceRefused
from checks.storage import files, layout
from release.record import earlier_models, record_names, references
from release.record.records import Records

BASE = "base"


def commit_of(records: Records, name: str, target: str | None = None) -> str:
    """Return the commit of the record that ``name`` means: main, production, best, or as ``record_names.find``.

    Raises EvidenceRefused if there is none, or if it is not in the history of the target branch; as
    ``earlier_models.now`` and ``record_names.find``.
    """
    branch, tip = records.target(target)
    if name in EARLIER and tip is not None:
        model = earlier_models.now(records, earlier_models.place(records, branch, tip), name)
        if isinstance(model, str):
            raise EvidenceRefused(f"{name}: {model}", references.OTHER_START)
        commit: str | None = model.commit
    else:
        commit = record_names.find(records, name).commit
    if commit is None:
        raise EvidenceRefused(
            f"{name}: is the work tree, whose record is in no commit", "commit it, and merge it"
        )
    references.refuse_foreign_start(records, commit, target)
    return commit


def earlier(records: Records, commit: str) -> Iterator[str]:
    """Yield the commits of the models from which the training of ``commit`` went on, the latest first."""
    while (train := records.at(commit).report(layout.TRAIN_REPORT, TrainReport)) and train.start:
        commit = train.start.commit
        yield commit


def reports(records: Records, commit: str) -> tuple[TrainReport, ParityReport]:
    """Return the reports of training and merge in ``commit``. Raises EvidenceRefused if it has no adapter."""
    side = records.at(commit)
    try:
        train = side.report(layout.TRAIN_REPORT, TrainReport)
        parity = side.report(layout.PARITY_REPORT, ParityReport)
    except ValidationError as error:
        raise files.unfit(
            f"the record of commit {commit[:12]}", error, references.OTHER_START
        ) from error
    if train is None or parity is None or train.full:
        what = "has no adapter" if train and train.full else "has no record of a model"
        raise EvidenceRefused(f"commit {commit[:12]} {what}", references.OTHER_START)
    return train, parity
