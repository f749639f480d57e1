"""feedback: stores labels of requests, which `lockstep watch` joins with the captured requests by their id."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.monitoring.store import CaptureStore, Label, parse
from release.monitoring.window import TimeSpan


class Stored(NamedTuple):
    """How many labels, of how many requests, and the name of their file below the captures.

    ``left_out``: assessments of MLflow that are no labels, with how many there are of each reason.
    """

    labels: int
    requests: int
    name: str
    left_out: tuple[tuple[str, int], ...] = ()


def feedback(root: Path, file: Path, captures: str | None = None) -> Stored:
    """Store the labels in ``file``: JSON lines of request_id and label. The same ones again change nothing.

    ``captures``: the gateway's folder or address; None: that of this machine. Raises EvidenceRefused for a line that is
    no label or a file without any, MachineRefused if the address needs a package that is not installed.
    """
    try:
        labels = list(parse(file.read_bytes(), str(file)))
    except OSError as error:
        raise EvidenceRefused(
            f"{file}: {error.strerror or error}", "name a file of JSON lines"
        ) from error
    if not labels:
        raise EvidenceRefused(
            f"{file}: has no label", 'write a line {"request_id": "…", "label": "…"} for each'
        )
    return _stored(root, labels, captures)


def feedback_from_mlflow(
    root: Path, experiment: str, assessment: str, captures: str | None = None
) -> Stored:
    """Store what the assessments called ``assessment`` of an MLflow experiment's traces say. As ``feedback``.

    Raises EvidenceRefused if there is no such experiment or no label in it, MachineRefused if MLflow cannot be asked.
    """
    from release.monitoring.logs import mlflow

    span = TimeSpan(datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC))
    given = list(mlflow.labels(experiment, assessment, span))
    left_out = Counter(label for label in given if isinstance(label, str))
    labels = [label for label in given if isinstance(label, Label)]
    if not labels:
        why = "".join(f"; {count:,} left out: {reason}" for reason, count in left_out.most_common())
        raise EvidenceRefused(
            f"experiment {experiment[:80]!r}: no assessment {assessment[:80]!r} has a label{why}",
            "name the assessment whose text is what the answer should have been with --assessment",
        )
    # By request, so that the same labels are the same file whatever the order in which MLflow lists them.
    labels.sort(key=lambda label: (label.request_id, label.label))
    return _stored(root, labels, captures)._replace(left_out=tuple(left_out.most_common()))


def _stored(root: Path, labels: list[Label], captures: str | None) -> Stored:
    name = CaptureStore(captures or str(root / layout.CAPTURES)).add(labels)
    return Stored(len(labels), len({label.request_id for label in labels}), name)
