"""All training methods for ``train.method``: the files of ``stages/training/methods``, and those of users' packages.

``stages`` is above ``checks``, so no method is imported by name: the folder is searched, like installed packages. So a
method's parameters and trainer are in one file, and the release tool, which imports no stage, still knows the
parameters.
"""

from importlib import import_module
from typing import Annotated, get_args

from checks import plugins
from checks.kinds import OneOf
from checks.rows import Row
from checks.training.interface import Train


def _name(method: type[Train]) -> str:
    names = get_args(method.model_fields["method"].annotation)
    if len(names) != 1 or not isinstance(names[0], str):
        raise plugins.Unfit('does not define a field method: Literal["NAME"]')
    if taken := sorted(set(method.extra()) & set(Row.model_fields)):
        raise plugins.Unfit(f"needs a column {taken[0]!r}, which is a field of every row")
    return names[0]


METHODS: plugins.Registry[type[Train]] = plugins.collect(
    "lockstep.methods",
    import_module("stages.training.methods"),
    plugins.subclass_of(Train),
    _name,
)
AnyTrain = Annotated[Train, OneOf(METHODS.kinds, "method")]
