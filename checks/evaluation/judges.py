"""All judges that a suite of kind ``judged`` can name: the files of ``stages/judges``, and those of packages of users.

``stages`` is above ``checks``, so this module imports none of its code by name: the folder is searched, as installed
packages are. A judge's parameters and its code are one file that way.
"""

from importlib import import_module

from checks import plugins
from checks.evaluation.judge_kind import JudgeKind

JUDGES: plugins.Registry[type[JudgeKind]] = plugins.collect(
    "lockstep.judges", import_module("stages.judges"), plugins.subclass_of(JudgeKind), plugins.tag
)
