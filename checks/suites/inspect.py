"""inspect: a log of Inspect AI (https://inspect.aisi.org.uk) in its JSON format.

``inspect eval TASK --log-format json --metadata lockstep_model=sha256:…`` writes one; ``inspect log dump`` makes one
of an ``.eval`` file. The model's tree digest is not in a log by itself, so that metadata names it. A metric is called
after the scorer. Values that are letters count as Inspect's accuracy does: C is 1, P is 0.5, I and N are 0.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from checks.kinds.suite import DocumentSuite, LoggedSample
from checks.records.record import problems

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


class Inspect(DocumentSuite):
    """A log of Inspect AI. ``group`` and ``slice`` are keys of each sample's metadata."""

    log_of: ClassVar[str] = "log of Inspect in JSON with samples"
    names_model: ClassVar[str] = "run `inspect eval` with --metadata lockstep_model=sha256:…"

    kind: Literal["inspect"]

    def parse(self, document: Any) -> tuple[Any, Sequence[LoggedSample]]:
        """Read a run that succeeded, with every sample of its data set scored once."""
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
        return model, [_logged(sample) for sample in samples]


def _logged(sample: dict[str, Any]) -> LoggedSample:
    name, scores = sample["id"], sample["scores"]
    if sample["epoch"] != 1:
        raise ValueError(f"sample {name!r} has several epochs: run it with --epochs 1")
    if sample.get("error") or not scores:
        raise ValueError(f"sample {name!r} {'has no score' if not scores else 'did not end well'}")
    asked = [sample.get("input"), sample.get("choices"), sample.get("target")]
    values = [(metric, _value(score["value"])) for metric, score in scores.items()]
    return LoggedSample(str(name), _plain(asked), values, sample.get("metadata") or {})


def _plain(asked: Any) -> Any:
    """Return what was asked, without the identifiers that Inspect gives messages, which differ from run to run."""
    if isinstance(asked, list):
        return [_plain(item) for item in asked]
    return (
        {key: _plain(item) for key, item in asked.items() if key != "id"}
        if isinstance(asked, dict)
        else asked
    )


def _value(value: Any) -> Any:
    return _LETTERS.get(value, value) if isinstance(value, str) else value
