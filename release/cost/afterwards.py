"""What would have been estimated for a training that is done, beside what it took. It decides nothing."""

from checks import layout
from checks.config.params import Params
from checks.errors import EvidenceRefused
from checks.formats.data_reports import DataReport
from checks.formats.training_reports import TrainMeasured, TrainReport
from release.cost import training_ahead, training_record
from release.cost.training_ahead import Seconds
from release.cost.types import Unscalable
from release.record.records import Records


def estimate(
    records: Records, params: Params, ref: str, commit: str, report: TrainReport, took: TrainMeasured
) -> Seconds | None:
    """The estimate that the record at ``commit`` would have given for the finished training ``report``, ``took``.

    None if nothing was trained since that record, or if either record lacks the figures to scale from.
    """
    try:
        recorded = training_record.read(records.at(commit), ref)
        data = records.work_tree.report(layout.DATA_REPORT, DataReport)
        if (recorded.report, recorded.measured) == (report, took):
            return None
        ahead = training_ahead.done(report, params.training, data)
        return training_ahead.seconds(records.root, ahead, recorded)
    except (EvidenceRefused, Unscalable):
        return None
