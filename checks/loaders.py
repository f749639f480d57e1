"""All loaders that ``prepare.loader.kind`` can name: the files of ``stages/loaders``, and those of packages of users.

``stages`` is above ``checks``, so this module imports none of its code by name: the folder is searched, as installed
packages are. A loader's parameters and its code are one file that way, and the release tool, which imports no stage,
still knows the parameters of every loader.
"""

from importlib import import_module

from checks import plugins
from checks.drafts import Loader

LOADERS: plugins.Registry[type[Loader]] = plugins.collect(
    "lockstep.loaders",
    import_module("stages.loaders"),
    plugins.subclass_of(Loader),
    plugins.tag,
)
