"""inspect: a log of Inspect AI (https://inspect.aisi.org.uk) in its JSON format.

``inspect eval TASK --log-format json --metadata lockstep_model=sha256:…`` writes one; ``inspect log dump`` makes one
of an ``.eval`` file. The model's tree digest is not in a log by itself, so that metadata names it. A metric is called
after the scorer. Values that are letters count as Inspect's accuracy does: C is 1, P is 0.5, I and N are 0.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from checks.formats.suite_report import Scored, SourceClass
from checks.kinds.suite import LogSuite
from checks.records.record import problems
from checks.storage import digest

MODEL = "lockstep_model"  # the key of the log's metadata that has the tree digest
_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


class Inspect(LogSuite):
    """A log of Inspect AI. ``group`` and ``slice`` are keys of each sample's metadata."""

    evidence: ClassVar[SourceClass] = "external"  # its scorers may be functions or models

    kind: Literal["inspect"]
    group: Annotated[str | None, Field(description="null: each sample is its own group")] = None
    slice: Annotated[str | None, Field(description="null: there are no slices")] = None

    def convert(self, log: Path) -> Iterator[Scored]:
        """Only of a run that succeeded, with every sample of its data set scored once."""
        try:
            document = json.loads(log.read_bytes())
            spec, samples = document["eval"], document["samples"]
            status = document["status"]
            chosen = spec["dataset"]["sample_ids"]
            model: Any = (spec.get("metadata") or {}).get(MODEL)
            scored = [(sample["id"], sample["epoch"], sample["scores"]) for sample in samples]
        except (
            UnicodeDecodeError,
            json.JSONDecodeError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise ValueError(
                f"no log of Inspect in JSON with samples ({type(error).__name__}: {error})"
            ) from error
        invalid = ", and is invalidated" if document.get("invalidated") else ""
        here = {name for name, _, _ in scored}
        missing = next((f"sample {name!r}" for name in chosen or () if name not in here), None)
        for problem in problems(
            (
                model is None,
                f"names no model: run `inspect eval` with --metadata {MODEL}=sha256:…",
            ),
            (status != "success" or invalid, f"the run ended with {status!r}{invalid}"),
            (missing, f"{missing} of the data set is not in it"),
        ):
            raise ValueError(problem)
        for sample, (_, epoch, scores) in zip(samples, scored, strict=True):
            if epoch != 1:
                raise ValueError(
                    f"sample {sample['id']!r} has several epochs: run it with --epochs 1"
                )
            if sample.get("error") or not scores:
                raise ValueError(
                    f"sample {sample['id']!r} {'has no score' if not scores else 'did not end well'}"
                )
            yield from self._of(sample, model, scores)

    def _of(self, sample: dict[str, Any], model: str, scores: dict[str, Any]) -> Iterator[Scored]:
        name = str(sample["id"])
        asked = [sample.get("input"), sample.get("choices"), sample.get("target")]
        for metric in (name for name in scores if name in self.metrics):
            yield Scored(
                sample=name, sample_sha=digest.of_json(_plain(asked)), model=model, metric=metric,
                value=_value(name, metric, scores[metric]["value"]),
                group=name if self.group is None else _key(sample, self.group),
                slice="all" if self.slice is None else _key(sample, self.slice),
            )  # fmt: skip


def _plain(asked: Any) -> Any:
    """Return what was asked, without the identifiers that Inspect gives messages, which differ from run to run."""
    if isinstance(asked, list):
        return [_plain(item) for item in asked]
    return (
        {key: _plain(item) for key, item in asked.items() if key != "id"}
        if isinstance(asked, dict)
        else asked
    )


def _value(sample: str, metric: str, value: Any) -> float:
    if isinstance(value, str) and value in _LETTERS:
        return _LETTERS[value]
    if isinstance(value, bool | int | float):
        return float(value)
    raise ValueError(f"sample {sample!r}: {metric} is {value!r}, which is no number")


def _key(sample: dict[str, Any], key: str) -> str:
    value = (sample.get("metadata") or {}).get(key)
    if value is None:
        raise ValueError(f"sample {sample['id']!r} has no {key!r} in its metadata")
    return str(value)
