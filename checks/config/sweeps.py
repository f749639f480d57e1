"""A sweep: the values that were tried, and how each training did on the valid split. No gate reads it.

With several seeds it compares recipes (parameters of training) instead of single models.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Self

import yaml
from pydantic import Field, JsonValue

from checks.config import params_file
from checks.config.params import Params
from checks.formats.evaluation_reports import Interval
from checks.formats.report import Count, Report
from checks.process.errors import ParamsRefused
from checks.records.record import Consistent, Digest, Record, problems
from checks.stats.over_seeds import Difference
from checks.storage import digest, plain_yaml
from checks.training import steps

Values = dict[str, JsonValue]  # The keys are paths of parameters, such as train.lora.r.
_BELOW = "train."  # Other sections change the rows, or how they are asked: then scores are not comparable.


class Recipe(Record):
    """The digests of all that decides a model's score on valid, but for the seed and the code."""

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
    merged: Digest | None = None
    scores: dict[str, Interval] = Field(default_factory=dict)  # on the valid split, by scorer
    experiment: str  # its name among `dvc exp show`'s


class Compared(Difference):
    """How far the mean over seeds of one recipe is above another's; both are digests of parameters."""

    one: Digest
    two: Digest


class Sweep(Report):
    """All trainings of one sweep, in the order in which they ran."""

    valid: Digest  # The split that they were compared on.
    rows: Count
    scorer: str  # The best was chosen by it.
    confidence: float  # The confidence of each interval; those of ``differences`` hold together.
    runs: tuple[SweptRun, ...]
    differences: tuple[Compared, ...] = ()  # Each two recipes with several seeds are compared.

    def by_values(self) -> list[tuple[Values, list[SweptRun]]]:
        """Return the trainings that have a score, the best mean over seeds first; equal ones as they ran.

        Values that were refused with some seed come last: the mean over the other seeds is one of the lucky ones.
        """
        scored = [run for run in self.runs if run.refused is None]
        settings: list[Values] = []
        for run in scored:
            if run.values not in settings:
                settings.append(run.values)
        ranked = [(values, [run for run in scored if run.values == values]) for values in settings]
        return sorted(
            ranked, key=lambda setting: (self.refused(setting[0]) > 0, -self.mean(setting[1]))
        )

    def refused(self, values: Values) -> int:
        """With how many seeds a training with these values was refused."""
        return sum(run.refused is not None and run.values == values for run in self.runs)

    def mean(self, runs: Sequence[SweptRun]) -> float:
        """Return the mean score of trainings that differ in their seed."""
        return fmean(run.scores[self.scorer].value for run in runs)

    def spread(self, runs: Sequence[SweptRun]) -> float | None:
        """Return the standard deviation over seeds; None for one seed."""
        return stdev(run.scores[self.scorer].value for run in runs) if len(runs) > 1 else None

    def of(self, parameters: Digest) -> list[SweptRun]:
        """Return the trainings with these parameters."""
        return [
            run
            for run in self.runs
            if run.recipe is not None and run.recipe.parameters == parameters
        ]

    def difference(self, one: Digest, two: Digest) -> Difference | None:
        """How far ``one`` is above ``two``; None: that was not measured."""
        for compared in self.differences:
            if (compared.one, compared.two) == (one, two):
                return compared
            if (compared.two, compared.one) == (one, two):
                return compared.mirrored()
        return None


class SweepReport(Sweep, Consistent):
    """reports/sweep.json: a sweep with the digest of all the rest, so that an edit by hand is noticed."""

    sealed: Digest  # The digest of the canonical JSON without this field.

    @classmethod
    def seal(cls, sweep: Sweep) -> Self:
        """Return the report of ``sweep``."""
        return cls(**dict(sweep), sealed=digest.of_json(sweep.model_dump(mode="json")))

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        measured = {run.recipe.parameters for run in self.runs if run.recipe is not None}
        named = {parameters for pair in self.differences for parameters in (pair.one, pair.two)}
        unknown = sorted(named - measured)
        return problems(
            (
                self.sealed != digest.of_json(self.model_dump(mode="json", exclude={"sealed"})),
                "sealed is not the digest of the rest: the file was changed after the sweep",
            ),
            (
                any(run.refused is None and self.scorer not in run.scores for run in self.runs),
                f"a training has no score by {self.scorer}",
            ),
            (
                unknown,
                f"no training has the parameters {''.join(unknown[:1])}, which differences names",
            ),
        )


def parameters_of(params: Params) -> Digest:
    """Return the digest of all parameters that decide the model, but for its seed: of ``train``, and ``merge.base``."""
    trained = [step.model_dump(mode="json", exclude={"seed"}) for step in steps.of(params.training)]
    return digest.of_json({"train": trained, "merge.base": params.merge.base})


def value_lists(specs: Iterable[str]) -> dict[str, list[JsonValue]]:
    """Read the values to try of each parameter from texts such as ``train.lora.r=8,16``.

    Raises ParamsRefused for a text that is no such list, or a parameter outside of ``train``.
    """
    lists: dict[str, list[JsonValue]] = {}
    for spec in specs:
        path, equals, text = spec.partition("=")
        if not equals or not path.startswith(_BELOW) or path == _BELOW:
            raise ParamsRefused(
                f"{spec!r}: is not a parameter of train with its values",
                "write for example train.lora.r=8,16; only parameters of train can be swept",
            )
        if path == "train.seed":
            raise ParamsRefused(
                "train.seed: a seed is no value to choose", "give seeds with --seed"
            )
        try:
            values = plain_yaml.load(f"[{text}]")
        except yaml.YAMLError as error:
            raise ParamsRefused(
                f"{spec!r}: its values are no YAML", "write them as train.lora.r=8,16"
            ) from error
        if (
            path in lists
            or not values
            or any(value in values[:at] for at, value in enumerate(values))
        ):
            raise ParamsRefused(
                f"{spec!r}: names a parameter or a value twice, or no value", "name each once"
            )
        lists[path] = values
    return lists


def combinations(lists: Mapping[str, Sequence[JsonValue]]) -> list[Values]:
    """Every combination of one value for each parameter, the last parameter changing first."""
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def changed(parsed: params_file.Parsed, values: Mapping[str, JsonValue]) -> Params:
    """Return the parameters with ``values`` in them. Raises ParamsRefused if params.yaml could not have them."""
    text = plain_yaml.dump(_with(parsed.value, values))
    try:
        return params_file.parse(text, parsed.name)
    except ParamsRefused as refusal:
        setting = ", ".join(f"{path}={value}" for path, value in values.items())
        raise ParamsRefused(
            f"{setting}: {refusal.what.partition(': ')[2]}", refusal.todo
        ) from refusal


def _with(plain: Mapping[str, Any], values: Mapping[str, JsonValue]) -> dict[str, Any]:
    copy: dict[str, Any] = dict(plain)
    for path, value in values.items():
        *above, last = path.split(".")
        section = copy
        for part in above:
            inner = section.get(part)
            section[part] = dict(inner) if isinstance(inner, dict) else {}
            section = section[part]
        section[last] = value
    return copy
