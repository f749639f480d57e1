"""The rows that harvested requests are compared with: the splits of the record, and the sealed one where its key is."""

import os
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from checks.config import sealed
from checks.formats.data_reports import PrepareReport
from checks.process.errors import EvidenceRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.record.records import Records

SplitName = Literal["test", "valid", "sealed"]


class Splits(NamedTuple):
    """``held_out``: the rows that test a model, of the splits ``compared``. ``train``: those of other sources."""

    held_out: Sequence[Row]
    train: Sequence[Row]
    compared: tuple[SplitName, ...]


def read(records: Records, source: str) -> Splits:
    """Return the rows; those of ``source``, the harvest itself, are left out of ``train``.

    The sealed split is read where LOCKSTEP_SEALED_KEY is set. Elsewhere its gate of kind contamination finds rows like
    its own. Raises EvidenceRefused if the splits here are not the recorded ones.
    """
    held_out = [*_split(records, "test"), *_split(records, "valid")]
    train = [row for row in _split(records, "train") if row.origin != source]
    wanted, key = records.work_tree.params.sealed, os.environ.get(sealed.VARIABLE)
    if wanted is None or not key:
        return Splits(held_out, train, ("test", "valid"))
    rows = sealed.decrypt((records.root / layout.SEALED).read_bytes(), key, wanted)
    return Splits([*held_out, *rows], train, ("test", "valid", "sealed"))


def _split(records: Records, name: str) -> Iterator[Row]:
    report = records.work_tree.report(layout.PREPARE_REPORT, PrepareReport)
    path = layout.SPLITS / f"{name}.jsonl"
    file = records.root / path
    if not file.is_file() or digest.of_file(file).sha256 != report.splits[name].sha256:
        raise EvidenceRefused(
            f"{path}: is not the split that {layout.PREPARE_REPORT} names",
            f"fetch it: `./lockstep dvc pull {layout.SPLITS}`",
        )
    return files.each_of_jsonl(file, Row)
