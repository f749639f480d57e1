"""Estimates a training that is done, so that the estimate can be shown beside the measured time. It decides nothing."""

from checks.config.params import Params
from checks.formats.data_reports import DataReport
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.cost import forecast, training_record
from release.cost.forecast import Forecast, Unscalable
from release.record.records import Records


def estimate(
    records: Records,
    params: Params,
    ref: str,
    commit: str,
    report: TrainReport,
    measured: TrainMeasured,
) -> Forecast | None:
    """Return the estimate that the record at ``commit`` gives for the finished training of ``report``.

    None if nothing was trained since that record, or if there is nothing to scale from.
    """
    try:
        recorded = training_record.read(records.at(commit), ref)
        data = records.work_tree.report(layout.DATA_REPORT, DataReport)
        if (recorded.report, recorded.measured) == (report, measured):
            return None
        plan = forecast.planned(records.root, params.training, data)
        return forecast.forecast(plan, data, report.base, recorded)
    except (EvidenceRefused, Unscalable):
        return None
