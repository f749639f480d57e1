"""feedback: stores labels of requests, which `lockstep watch` joins with the captured requests by their id."""

from pathlib import Path
from typing import NamedTuple

from checks import layout
from checks.errors import EvidenceRefused
from release.monitoring.store import Store, parse


class Stored(NamedTuple):
    """How many labels, of how many requests, and the name of their file below the captures."""

    labels: int
    requests: int
    name: str


def feedback(root: Path, file: Path, captures: str | None = None) -> Stored:
    """Store the labels in ``file``: JSON lines of request_id and label. The same ones again change nothing.

    ``captures``: the gateway's folder or address; None: that of this machine. Raises EvidenceRefused for a line that is
    no label or a file without any, MachineRefused if the address needs a package that is not installed.
    """
    try:
        labels = list(parse(file.read_bytes(), str(file)))
    except OSError as error:
        raise EvidenceRefused(f"{file}: {error.strerror or error}", "name a file of JSON lines") from error
    if not labels:
        raise EvidenceRefused(f"{file}: has no label", 'write a line {"request_id": "…", "label": "…"} for each')
    name = Store(captures or str(root / layout.CAPTURES)).add(labels)
    return Stored(len(labels), len({label.request_id for label in labels}), name)
