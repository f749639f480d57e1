"""The values that a sweep with ``--trials`` tries: each is chosen by the scores of those before it.

By Optuna's tree-structured Parzen estimator (Bergstra et al., 2011), one setting after the other. It is seeded, and its
only input are the scores. So a search that was interrupted asks for the same values again, and finds what it trained by
the experiments' names: no other state is kept.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from checks import digest
from checks.config.sweeps import Range, Tried, Values
from checks.errors import MachineRefused

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_DIGITS = 3  # of a number between two ends: readable in params.yaml, and the same on every machine
_AT_RANDOM = 5  # the first settings; with Optuna's default of ten, a search of twelve would choose two
_ASKS = 10  # for each trial: a small space has fewer settings than trials


class Search:
    """Iterate over it for values, and ``tell`` the score of each before the next."""

    def __init__(self, tried: Tried, trials: int, seed: int) -> None:
        """Choose at most ``trials`` settings of ``tried``. Raises MachineRefused if Optuna is not installed."""
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise MachineRefused(
                "a search needs optuna, which is not installed", "pip install -c constraints.txt -e '.[search]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_AT_RANDOM)
        self.name = f"TPE of Optuna {optuna.__version__}, seed {seed}"
        self._study = optuna.create_study(sampler=sampler, direction="maximize")
        self._refused = optuna.trial.TrialState.PRUNED  # ranked below every score, so that others are tried
        self._tried, self._trials = tried, trials
        self._space = {path: _distribution(values) for path, values in tried.items()}
        self._scores: dict[str, float | None] = {}

    def __iter__(self) -> Iterator[Values]:
        for _ in range(_ASKS * self._trials):
            if len(self._scores) == self._trials:
                return
            trial = self._study.ask(self._space)
            values = {path: _value(values, trial.params[path]) for path, values in self._tried.items()}
            if (key := digest.of_json(values)) not in self._scores:
                yield values
            score = self._scores[key]
            self._study.tell(trial, score, state=self._refused if score is None else None)

    def tell(self, values: Values, score: float | None) -> None:
        """The score of ``values``; None if their training was refused."""
        self._scores[digest.of_json(values)] = score


def _distribution(values: list[JsonValue] | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(range(len(values)))
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _value(values: list[JsonValue] | Range, chosen: Any) -> JsonValue:
    if isinstance(values, list):
        return values[chosen]
    if isinstance(chosen, int):
        return chosen
    return min(max(float(f"{chosen:.{_DIGITS}g}"), values.low), values.high)
