"""inspect: a log of Inspect AI (https://inspect.aisi.org.uk) in its JSON format.

``inspect eval TASK --log-format json --metadata lockstep_model=sha256:…`` writes one; ``inspect log dump`` makes one
of an ``.eval`` file. The model's tree digest is not in a log by itself, so that metadata names it. A metric is called
after the scorer. Values that are letters count as Inspect's accuracy does: C is 1, P is 0.5, I and N are 0. With
``--epochs`` a sample's value is the mean of its epochs, so that epochs are no further samples; the metrics of several
draws, such as match-in-all-draws, are there, too.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from checks.evaluation.scoring import IN_ALL, IN_ANY
from checks.kinds.suite import DocumentSuite, LoggedSample
from checks.records.record import problems

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


class Inspect(DocumentSuite):
    """A log of Inspect AI. ``group`` and ``slice`` are keys of each sample's metadata."""

    log_of: ClassVar[str] = "log of Inspect in JSON with samples"
    names_model: ClassVar[str] = "run `inspect eval` with --metadata lockstep_model=sha256:…"

    kind: Literal["inspect"]

    def parse(self, document: Any) -> tuple[Any, Sequence[LoggedSample]]:
        """Read a run that succeeded, with every sample of its data set scored once in each epoch."""
        spec, samples = document["eval"], document["samples"]
        status = document["status"]
        invalid = ", and is invalidated" if document.get("invalidated") else ""
        names = {sample["id"] for sample in samples}
        chosen = spec["dataset"]["sample_ids"] or ()
        missing = next((f"sample {name!r}" for name in chosen if name not in names), None)
        for problem in problems(
            (status != "success" or invalid, f"the run ended with {status!r}{invalid}"),
            (missing, f"{missing} of the data set is not in it"),
        ):
            raise ValueError(problem)
        model = (spec.get("metadata") or {}).get(self.MODEL)
        epochs = max((sample["epoch"] for sample in samples), default=1)
        by_name = dict[Any, list[dict[str, Any]]]()
        for sample in samples:
            by_name.setdefault(sample["id"], []).append(sample)
        return model, [_logged(of_name, epochs) for of_name in by_name.values()]


def _logged(of_name: list[dict[str, Any]], epochs: int) -> LoggedSample:
    """Return one sample of its ``epochs`` runs."""
    first, name = of_name[0], of_name[0]["id"]
    if sorted(sample["epoch"] for sample in of_name) != [*range(1, epochs + 1)]:
        raise ValueError(f"sample {name!r} is not in each of the {epochs} epochs once")
    scores = dict[str, list[Any]]()
    for sample in of_name:
        if sample.get("error") or not sample["scores"]:
            why = "did not end well" if sample["scores"] else "has no score"
            raise ValueError(f"sample {name!r} {why}")
        for metric, score in sample["scores"].items():
            scores.setdefault(metric, []).append(_LETTERS.get(str(score["value"]), score["value"]))
    if epochs == 1:
        values = [(metric, value) for metric, (value,) in scores.items()]
    else:
        values = [
            pair for metric, runs in scores.items() for pair in _over(metric, runs, epochs, name)
        ]
    return LoggedSample(
        str(name),
        _plain([first.get("input"), first.get("choices"), first.get("target")]),
        values,
        first.get("metadata") or {},
    )


def _over(metric: str, runs: list[Any], epochs: int, name: Any) -> list[tuple[str, Any]]:
    """Return the mean over the epochs, the least and the largest, each with the name of its metric."""
    numbers = [value for value in runs if isinstance(value, int | float)]
    if len(numbers) < epochs:
        raise ValueError(f"sample {name!r} has no number for {metric} in each epoch")
    mean = math.fsum(numbers) / epochs
    return [(metric, mean), (metric + IN_ALL, min(numbers)), (metric + IN_ANY, max(numbers))]


def _plain(asked: Any) -> Any:
    """Return what was asked, without the identifiers that Inspect gives messages, which differ from run to run."""
    if isinstance(asked, list):
        return [_plain(item) for item in asked]
    return (
        {key: _plain(item) for key, item in asked.items() if key != "id"}
        if isinstance(asked, dict)
        else asked
    )
