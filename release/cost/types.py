"""A recorded training, as estimates scale from it."""

from typing import NamedTuple

from checks.formats.data_statistics import Statistics
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.training.interface import Train


class RecordedTraining(NamedTuple):
    """A recorded training; ``steps`` has the parameters of each of its steps.

    ``answers_per_second`` of the evaluation is None if nothing was generated. ``row_bytes``, the mean bytes per row of
    the splits, is None if dvc.lock does not give it. ``lengths``: what validate said of the rows and documents.
    """

    ref: str
    commit: str
    report: TrainReport
    measured: TrainMeasured
    steps: tuple[Train, ...]
    answers_per_second: float | None
    row_bytes: float | None
    lengths: Statistics | None = None

    @property
    def train(self) -> Train:
        """The parameters of the only step, or of the last one."""
        return self.steps[-1]

    def like(self, method: str, number: int) -> "RecordedTraining":
        """One of its steps as if that were the whole training: one with this method, if possible in this place."""
        found = [at for at, step in enumerate(self.steps) if step.method == method]
        at = number if number in found else (found or [0])[0]
        if not self.report.chain:
            return self
        its, took = self.report.chain[at], self.measured.chain[at]
        names = ("rows", "sequences", "epochs", "steps", "tokens")
        report = {"chain": (), **{name: getattr(its, name) for name in names}}
        measured = {"seconds": took.seconds, "memory": took.memory, "chain": ()}
        return self._replace(
            report=self.report.model_copy(update=report),
            measured=self.measured.model_copy(update=measured),
            steps=(self.steps[at],),
        )


class Unscalable(Exception):  # noqa: N818 - no error: there is no estimate then
    """No estimate can be scaled from this record; the message says why."""
