"""A sweep: the values that were tried, and how each training did on the valid split. No gate reads it.

Several seeds make it speak of recipes (parameters of training) instead of single models.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, JsonValue, model_validator

from checks import digest, plain_yaml
from checks.config import params_file
from checks.config.params import Params
from checks.errors import ParamsRefused
from checks.formats.evaluation_reports import Interval
from checks.formats.report import Count, Report
from checks.identity import Digest
from checks.rows import Record
from checks.stats.over_seeds import Difference
from checks.training import steps

Values = dict[str, JsonValue]  # by the parameter's path, such as train.lora.r
_BELOW = "train."  # another section changes the rows, or how they are asked: then scores are not comparable


class Range(Record):
    """The values of one parameter between two numbers, both included; whole numbers if both are. ``log``: by ratio."""

    low: int | float
    high: int | float
    log: bool = False

    @property
    def ends(self) -> list[JsonValue]:
        """Both ends."""
        return [self.low, self.high]


Tried = dict[str, list[JsonValue] | Range]  # by the parameter's path


class Recipe(Record):
    """What decides a model's score on valid, but for the seed and the code; each by digest."""

    parameters: Digest  # see ``parameters_of``
    base: Digest
    train: Digest  # the splits
    valid: Digest
    scorers: Digest
    prompt_format: Digest  # the chat template, the answers' length and the precision


class SweptRun(Record):
    """One training. ``refused``: why there is no model; then nothing else is known of it."""

    values: Values
    seed: int
    refused: str | None = None
    recipe: Recipe | None = None
    adapter: Digest | None = None
    merged: Digest | None = None
    trainable_parameters: Count | None = None
    scores: dict[str, Interval] = Field(default_factory=dict)  # on the valid split, by scorer
    seconds: Annotated[float, Field(ge=0)] | None = None  # of the training alone
    device: str | None = None
    experiment: str  # its name among `dvc exp show`'s
    mlflow_run: str | None = None


class Compared(Difference):
    """How far the mean over seeds of one recipe is above another's; both are digests of parameters."""

    one: Digest
    two: Digest


class Sweep(Report):
    """All trainings of one sweep, in the order in which they ran."""

    valid: Digest  # of the split that they were compared on
    rows: Count
    scorer: str  # by which the best was chosen
    confidence: float  # of each interval; those of ``differences`` hold together
    search: str | None = None  # what chose the values, by the scores of earlier ones; None: every combination was tried
    runs: tuple[SweptRun, ...]
    differences: tuple[Compared, ...] = ()  # of every two recipes that have several seeds; none of a search

    def by_values(self) -> list[tuple[Values, list[SweptRun]]]:
        """The trainings that have a score, the best mean over seeds first; equal ones as they ran.

        Values that were refused with some seed come last: the mean over the other seeds is one of the lucky ones.
        """
        found: list[tuple[Values, list[SweptRun]]] = []
        for run in self.runs:
            if run.refused is None:
                same = next((runs for values, runs in found if values == run.values), None)
                if same is None:
                    found.append((run.values, [run]))
                else:
                    same.append(run)
        return sorted(found, key=lambda each: (self.refused(each[0]) > 0, -self.mean(each[1])))

    def refused(self, values: Values) -> int:
        """With how many seeds a training with these values was refused."""
        return sum(run.refused is not None and run.values == values for run in self.runs)

    def mean(self, runs: Sequence[SweptRun]) -> float:
        """The mean score of trainings that differ in their seed."""
        return fmean(run.scores[self.scorer].value for run in runs)

    def spread(self, runs: Sequence[SweptRun]) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return stdev(run.scores[self.scorer].value for run in runs) if len(runs) > 1 else None

    def of(self, parameters: Digest) -> list[SweptRun]:
        """The trainings with these parameters."""
        return [run for run in self.runs if run.recipe is not None and run.recipe.parameters == parameters]

    def difference(self, one: Digest, two: Digest) -> Difference | None:
        """How far ``one`` is above ``two``; None: that was not measured."""
        for found in self.differences:
            if (found.one, found.two) == (one, two):
                return found
            if (found.two, found.one) == (one, two):
                return found.mirrored()
        return None


class SweepReport(Sweep):
    """reports/sweep.json: a sweep with the digest of all the rest, so that an edit by hand is noticed."""

    sealed: Digest  # of the canonical JSON without this

    @classmethod
    def seal(cls, sweep: Sweep) -> Self:
        """The report of ``sweep``."""
        return cls(**dict(sweep), sealed=digest.of_json(sweep.model_dump(mode="json")))

    @model_validator(mode="after")
    def _is_as_it_was_sealed(self) -> Self:
        if self.sealed != digest.of_json(self.model_dump(mode="json", exclude={"sealed"})):
            raise ValueError("sealed is not the digest of the rest: the file was changed after the sweep")
        if any(run.refused is None and self.scorer not in run.scores for run in self.runs):
            raise ValueError(f"a training has no score by {self.scorer}")
        measured = {run.recipe.parameters for run in self.runs if run.recipe is not None}
        if named := {each for pair in self.differences for each in (pair.one, pair.two)} - measured:
            raise ValueError(f"no training has the parameters {min(named)}, which differences names")
        return self


def parameters_of(params: Params) -> Digest:
    """The digest of all parameters that decide the model, but for its seed: of ``train``, and ``merge.base``."""
    trained = [step.model_dump(mode="json", exclude={"seed"}) for step in steps.of(params.training)]
    return digest.of_json({"train": trained, "merge.base": params.merge.base})


def asked(specs: Iterable[str]) -> Tried:
    """The values to try of each parameter, from texts such as ``train.lora.r=8,16`` and ``train.lora.r=4..64:log``.

    Raises ParamsRefused for a text that is neither, or a parameter outside of ``train``.
    """
    found: Tried = {}
    for spec in specs:
        path, equals, text = spec.partition("=")
        if not equals or not path.startswith(_BELOW) or path == _BELOW:
            raise ParamsRefused(
                f"{spec!r}: is not a parameter of train with its values",
                "write for example train.lora.r=8,16; only parameters of train can be swept",
            )
        if path == "train.seed":
            raise ParamsRefused("train.seed: a seed is no value to choose", "give seeds with --seed")
        if ".." in text and path not in found:
            found[path] = _range(spec, text)
            continue
        try:
            values = plain_yaml.load(f"[{text}]")
        except yaml.YAMLError as error:
            raise ParamsRefused(f"{spec!r}: its values are no YAML", "write them as train.lora.r=8,16") from error
        if path in found or not values or any(value in values[:at] for at, value in enumerate(values)):
            raise ParamsRefused(f"{spec!r}: names a parameter or a value twice, or no value", "name each once")
        found[path] = values
    return found


def _range(spec: str, text: str) -> Range:
    ends, _, scale = text.partition(":")
    low, _, high = ends.partition("..")
    try:
        values = [plain_yaml.load(end) for end in (low, high)]
    except yaml.YAMLError:
        values = []
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2 or scale not in ("", "log") or not all(map(math.isfinite, numbers)):
        raise ParamsRefused(f"{spec!r}: is no range of numbers", "write it as train.learning_rate=1e-4..3e-3:log")
    if not numbers[0] < numbers[1] or (scale and numbers[0] <= 0):
        raise ParamsRefused(f"{spec!r}: is no range", "write the lower end first; with :log it is above 0")
    return Range(low=numbers[0], high=numbers[1], log=bool(scale))


def ends_of(tried: Tried) -> dict[str, list[JsonValue]]:
    """What has to be possible before a search begins: each value, and both ends of each range."""
    return {path: values.ends if isinstance(values, Range) else list(values) for path, values in tried.items()}


def combinations(tried: Mapping[str, Sequence[JsonValue]]) -> list[Values]:
    """Every combination of one value for each parameter, the last parameter changing first."""
    return [dict(zip(tried, values, strict=True)) for values in itertools.product(*tried.values())]


def hold(parsed: params_file.Parsed, values: Mapping[str, JsonValue]) -> Params:
    """The parameters with ``values`` in them. Raises ParamsRefused if they are refused: before anything is trained."""
    changed = plain_yaml.dump(_with(parsed.value, values))
    try:
        return params_file.parse(changed, parsed.name)
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
