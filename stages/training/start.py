"""The adapter that training starts from, and the rows that it was trained on: ``train.start``.

In:  the record in the commit ``train.start``: reports in git, the adapter and the rows as DVC has them.
Out: the adapter in a temporary folder; data/learned.jsonl, when training has ended.

The commit determines every byte: its reports name the digests that adapter and rows must have.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from checks.formats.data_reports import FetchReport
from checks.formats.report import Report
from checks.formats.training_reports import ParityReport, Start, TrainReport
from checks.kinds.method import Train
from checks.process.errors import EvidenceRefused, TrainingRefused
from checks.records.record import Digest
from checks.storage import digest, files, layout
from stages import earlier_records

R = TypeVar("R", bound=Report)

_TRAIN = layout.SPLITS / "train.jsonl"
_OTHER = "name another model with `lockstep start`, or the base with `lockstep start base`"


class Started(NamedTuple):
    """``adapter``, ``learned``: the folder of the adapter, and the file of the rows that it learned from."""

    adapter: Path
    learned: Path
    report: Start


@contextmanager
def opened(root: Path, train: Train, base: Digest) -> Iterator[Started | None]:
    """Bring what ``train.start`` names into a temporary folder; None if it names nothing.

    ``base``: the digest of the base here. Raises EvidenceRefused if git or DVC lacks a part of the record, or a part
    has another digest than the record says; TrainingRefused if the adapter does not fit this base.
    """
    if train.start is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield _brought(root, train, base, Path(scratch).resolve())


def keep_rows(root: Path, started: Started | None) -> None:
    """Write data/learned.jsonl."""
    with files.replacing(root / layout.LEARNED_BEFORE) as stream:
        if started:
            with started.learned.open("rb") as rows:
                shutil.copyfileobj(rows, stream)


def _brought(root: Path, train: Train, base: Digest, scratch: Path) -> Started:
    commit = str(train.start)
    trained = _report(root, commit, layout.TRAIN_REPORT, TrainReport)
    parity = _report(root, commit, layout.PARITY_REPORT, ParityReport)
    if parity.adapter != trained.adapter:
        raise _spoiled(commit, layout.PARITY_REPORT, parity.adapter, trained.adapter)
    _hold_base(train, trained, base)
    adapter = scratch / "adapter"
    earlier_records.get(root, commit, layout.ADAPTER, adapter)
    if (actual := digest.of_tree(adapter).digest) != trained.adapter:
        raise _spoiled(commit, layout.ADAPTER, actual, trained.adapter)
    learned = scratch / "learned.jsonl"
    _join(_row_files(root, commit, trained, scratch), learned)
    earlier = trained.start.licenses if trained.start else {}
    report = Start(
        commit=commit,
        model=parity.merged,
        adapter=trained.adapter,
        learned=digest.of_file(learned).sha256,
        licenses=_licenses(root, commit) | earlier,
    )
    return Started(adapter, learned, report)


def _report(root: Path, commit: str, path: Path, model: type[R]) -> R:
    data = earlier_records.committed(root, commit, path)
    if data is None:
        raise EvidenceRefused(
            f"train.start: {path} of commit {commit[:12]} is not in this clone",
            f"fetch the branch of that commit; if it has no record, {_OTHER}",
        )
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise files.unfit(f"train.start: {path} of commit {commit[:12]}", error, _OTHER) from error


def _hold_base(train: Train, trained: TrainReport, base: Digest) -> None:
    """Raise TrainingRefused unless ``trained`` is of an adapter on this base, quantised as here."""
    what = None
    if trained.full:
        what = "has no adapter: the base's own weights learned"
    elif trained.base != base:
        what = f"was trained on the base {trained.base[:19]}…, and {layout.BASE} is {base[:19]}…"
    elif (trained.quantised is None) != (train.quantization is None):
        bits = ("4 bits", "its own precision")
        then, now = bits if trained.quantised else bits[::-1]
        what = f"was trained on a base in {then}, and train.quantization says {now}"
    if what:
        raise TrainingRefused(
            f"train.start: the model of commit {str(train.start)[:12]} {what}", _OTHER
        )


def _row_files(root: Path, commit: str, trained: TrainReport, scratch: Path) -> Iterator[Path]:
    """Yield the file of the rows that the model learned from, and of those that it started with."""
    wanted = {_TRAIN: trained.splits.get("train", "no digest")}
    if trained.start:
        wanted[layout.LEARNED_BEFORE] = trained.start.learned
    for path, expected in wanted.items():
        place = scratch / f"rows-{path.name}"
        earlier_records.get(root, commit, path, place)
        if (actual := digest.of_file(place).sha256) != expected:
            raise _spoiled(commit, path, actual, expected)
        yield place


def _join(paths: Iterator[Path], target: Path) -> None:
    """Write the lines of all files, each line once."""
    written = set[bytes]()
    with target.open("wb") as stream:
        for path in paths:
            with path.open("rb") as lines:
                for line in lines:
                    if line not in written:
                        written.add(line)
                        stream.write(line)


def _licenses(root: Path, commit: str) -> dict[str, str | None]:
    sources = _report(root, commit, layout.FETCH_REPORT, FetchReport).all_data
    return {f"data {name} of {commit[:12]}": source.license for name, source in sources.items()}


def _spoiled(commit: str, path: Path, actual: str, expected: str) -> EvidenceRefused:
    return EvidenceRefused(
        f"train.start: {path} of commit {commit[:12]} is {actual[:19]}…, and its record says {expected[:19]}…",
        _OTHER,
    )
