"""start: writes into params.yaml from which earlier model training starts."""

from pathlib import Path

from checks.config import params_edit, params_file
from checks.process.errors import ParamsRefused
from checks.records.record import CommitHash, Digest
from checks.records.rows import Record
from checks.storage import files, layout, plain_yaml
from checks.training import steps
from release.record import start_model
from release.record.records import Records

_KEY = "start"


class StartWritten(Record):
    """``commit``, ``model`` and ``adapter`` are None for the base. ``changed``: whether params.yaml named another."""

    commit: CommitHash | None
    model: Digest | None = None
    adapter: Digest | None = None
    changed: bool


def start(root: Path, name: str, target: str | None = None) -> StartWritten:
    """Write the commit that ``name`` means now as ``train.start``; ``base``: null.

    Raises ParamsRefused, and writes nothing, if params.yaml would not hold, or if a person must write the line;
    EvidenceRefused as ``start_model.commit_of`` and ``start_model.reports``; RemoteRefused, MachineRefused.
    """
    records = Records(root)
    commit, model, adapter = None, None, None
    if name != start_model.BASE:
        commit = start_model.commit_of(records, name, target)
        train, parity = start_model.reports(records, commit)
        model, adapter = parity.merged, train.adapter
    changed = steps.of(records.work_tree.params.training)[0].start != commit
    if changed:
        path = root / layout.PARAMS
        text = _with_start(path.read_text(encoding="utf-8"), commit, records)
        params_file.parse(text)
        files.write_text(path, text)
    return StartWritten(commit=commit, model=model, adapter=adapter, changed=changed)


def _with_start(text: str, commit: str | None, records: Records) -> str:
    if _KEY in records.work_tree.document["train"]:
        return params_edit.with_values(text, {f"train.{_KEY}": commit})
    line = f"{_KEY}: {plain_yaml.inline(commit)}"
    changed = params_edit.with_key(text, "train", line)
    if changed is None:
        raise ParamsRefused(f"{layout.PARAMS}: train is on one line", f"add `{line}` to it by hand")
    return changed
