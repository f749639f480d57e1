"""start_model: the earlier model that training starts from, which params.yaml names by the commit of its record."""

from pydantic import ValidationError

from checks.formats.evaluation_reports import EARLIER
from checks.formats.training_reports import ParityReport, TrainReport
from checks.process.errors import EvidenceRefused
from checks.storage import files, layout
from checks.training import steps
from release.adapters import commits
from release.record import earlier_models, record_names
from release.record.records import Records

BASE = "base"
_OTHER = "name another model with `lockstep start`, or the base with `lockstep start base`"


def commit_of(records: Records, name: str, target: str | None = None) -> str:
    """Return the commit of the record that ``name`` means: main, production, best, or as ``record_names.find``.

    Raises EvidenceRefused if there is none, or if it is not in the history of the target branch; as
    ``earlier_models.now`` and ``record_names.find``.
    """
    branch, tip = records.target(target)
    if name in EARLIER and tip is not None:
        place = earlier_models.place(records, branch, tip)
        model = earlier_models.now(records, place, name)
        if isinstance(model, str):
            raise EvidenceRefused(f"{name}: {model}", _OTHER)
        commit: str | None = model.commit
    else:
        commit = record_names.find(records, name).commit
    if commit is None:
        raise EvidenceRefused(
            f"{name}: is the work tree, whose record is in no commit", "commit it, and merge it"
        )
    _refuse_foreign(records, commit, target)
    return commit


def hold(records: Records, target: str | None = None) -> None:
    """Raise EvidenceRefused if params.yaml starts from a record that the target branch never had."""
    commit = steps.of(records.work_tree.params.training)[0].start
    if commit is not None:
        _refuse_foreign(records, commit, target)


def _refuse_foreign(records: Records, commit: str, target: str | None) -> None:
    branch, tip = records.target(target)
    known = commits.resolve(records.root, commit) == commit
    if not known or tip is None or not commits.is_ancestor(records.root, commit, tip):
        raise EvidenceRefused(
            f"train.start: commit {commit[:12]} is not in the history of {branch}", _OTHER
        )


def reports(records: Records, commit: str) -> tuple[TrainReport, ParityReport]:
    """Return the reports of training and merge in ``commit``. Raises EvidenceRefused if it has no adapter."""
    side = records.at(commit)
    try:
        train = side.report(layout.TRAIN_REPORT, TrainReport)
        parity = side.report(layout.PARITY_REPORT, ParityReport)
    except ValidationError as error:
        raise files.unfit(f"the record of commit {commit[:12]}", error, _OTHER) from error
    if train is None or parity is None or train.full:
        what = "has no adapter" if train and train.full else "has no record of a model"
        raise EvidenceRefused(f"commit {commit[:12]} {what}", _OTHER)
    return train, parity
