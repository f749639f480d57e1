"""A sweep: the values that were tried, and how each training did on the valid split. No gate reads it."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any

import yaml
from pydantic import Field, JsonValue

from checks import params_file, plain_yaml
from checks.errors import ParamsRefused
from checks.evidence import Count, Interval, Report
from checks.identity import Digest
from checks.rows import Record

Values = dict[str, JsonValue]  # by the parameter's path, such as train.lora.r
_BELOW = "train."  # another section changes the rows, or how they are asked: then scores are not comparable


class SweptRun(Record):
    """One training. ``refused``: why there is no model; then nothing else is known of it."""

    values: Values
    seed: int
    refused: str | None = None
    adapter: Digest | None = None
    merged: Digest | None = None
    trainable_parameters: Count | None = None
    scores: dict[str, Interval] = Field(default_factory=dict)  # on the valid split, by scorer
    seconds: Annotated[float, Field(ge=0)] | None = None  # of the training alone
    device: str | None = None
    experiment: str  # its name among `dvc exp show`'s
    mlflow_run: str | None = None


class SweepReport(Report):
    """All trainings of one sweep, in the order in which they ran."""

    valid: Digest  # of the split that they were compared on
    rows: Count
    scorer: str  # by which the best was chosen
    confidence: float
    runs: tuple[SweptRun, ...]

    def by_values(self) -> list[tuple[Values, list[SweptRun]]]:
        """The trainings that have a score, the best mean over seeds first; equal ones as they ran."""
        found: list[tuple[Values, list[SweptRun]]] = []
        for run in self.runs:
            if run.refused is None:
                same = next((runs for values, runs in found if values == run.values), None)
                if same is None:
                    found.append((run.values, [run]))
                else:
                    same.append(run)
        return sorted(found, key=lambda each: -self.mean(each[1]))

    def mean(self, runs: Sequence[SweptRun]) -> float:
        """The mean score of trainings that differ in their seed."""
        return fmean(run.scores[self.scorer].value for run in runs)

    def spread(self, runs: Sequence[SweptRun]) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        if len(runs) < 2:
            return None
        mean = self.mean(runs)
        return math.sqrt(sum((r.scores[self.scorer].value - mean) ** 2 for r in runs) / (len(runs) - 1))


def asked(specs: Iterable[str]) -> dict[str, list[JsonValue]]:
    """The values to try of each parameter, from texts such as ``train.lora.r=8,16``.

    Raises ParamsRefused for a text that is no such list, or a parameter outside of ``train``.
    """
    found: dict[str, list[JsonValue]] = {}
    for spec in specs:
        path, equals, text = spec.partition("=")
        if not equals or not path.startswith(_BELOW) or path == _BELOW:
            raise ParamsRefused(
                f"{spec!r}: is no parameter of train with its values",
                "write it as train.lora.r=8,16: other sections change what the trainings are compared on",
            )
        if path == "train.seed":
            raise ParamsRefused("train.seed: a seed is no value to choose", "give seeds with --seed")
        try:
            values = plain_yaml.load(f"[{text}]")
        except yaml.YAMLError as error:
            raise ParamsRefused(f"{spec!r}: its values are no YAML", "write them as train.lora.r=8,16") from error
        if path in found or not values or any(value in values[:at] for at, value in enumerate(values)):
            raise ParamsRefused(f"{spec!r}: names a parameter or a value twice, or no value", "name each once")
        found[path] = values
    return found


def combinations(tried: Mapping[str, Sequence[JsonValue]]) -> list[Values]:
    """Every combination of one value for each parameter, the last parameter changing first."""
    return [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]


def hold(parsed: params_file.Parsed, values: Mapping[str, JsonValue]) -> None:
    """Raises ParamsRefused when params.yaml with ``values`` in it is refused: before anything is trained."""
    changed = plain_yaml.dump(_with(parsed.value, values))
    try:
        params_file.parse(changed, parsed.name)
    except ParamsRefused as refusal:
        said = ", ".join(f"{path}={value}" for path, value in values.items())
        raise ParamsRefused(f"{said}: {refusal.what.partition(': ')[2]}", refusal.todo) from refusal


def written(text: str, values: Mapping[str, JsonValue]) -> str:
    """``text`` of params.yaml with ``values`` in it, and nothing else changed: comments and order stay.

    Raises ParamsRefused when a parameter is not in the text.
    """
    places, whole = [], yaml.compose(text, Loader=yaml.SafeLoader)
    for path, value in values.items():
        node = whole
        for part in path.split("."):
            below = node.value if isinstance(node, yaml.MappingNode) else []
            node = next((value for key, value in below if key.value == part), None)
        if node is None:
            raise ParamsRefused(f"params.yaml: does not write {path}", f"add it by hand, as {value!r}")
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        if block:
            raise ParamsRefused(
                f"params.yaml: {path} is written over several lines", f"change it by hand, to {value!r}"
            )
        places.append((node.start_mark.index, node.end_mark.index, _plain(value)))
    for start, end, value in sorted(places, reverse=True):
        text = text[:start] + value + text[end:]
    return text


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _with(plain: Mapping[str, Any], values: Mapping[str, JsonValue]) -> dict[str, Any]:
    changed: dict[str, Any] = dict(plain)
    for path, value in values.items():
        *above, last = path.split(".")
        section = changed
        for part in above:
            inner = section.get(part)
            section[part] = dict(inner) if isinstance(inner, dict) else {}
            section = section[part]
        section[last] = value
    return changed
