"""All loaders for ``prepare.loader.kind``: the files of ``stages/loaders``, and those of users' packages.

``stages`` is above ``checks``, so no loader is imported by name: the folder is searched, like installed packages. So a
loader's parameters and code are in one file, and the release tool, which imports no stage, still knows the parameters.
"""

from importlib import import_module

from checks import plugins
from checks.data.drafts import Loader

LOADERS: plugins.Registry[type[Loader]] = plugins.collect(
    "lockstep.loaders",
    import_module("stages.loaders"),
    plugins.subclass_of(Loader),
    plugins.tag,
)
