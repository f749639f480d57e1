"""All kinds of suite, one module each.

A package of a user adds its own through entry points of the group ``lockstep.suites``.
``checks.evaluation.suite_kind`` says what a kind must have.
"""

import sys
from typing import TYPE_CHECKING, Annotated

from checks import plugins
from checks.evaluation.suite_kind import SuiteKind
from checks.kinds import OneOf

SUITES: plugins.Registry[type[SuiteKind]] = plugins.collect(
    "lockstep.suites", sys.modules[__name__], plugins.subclass_of(SuiteKind), plugins.tag
)

if TYPE_CHECKING:
    Suite = SuiteKind
else:
    Suite = Annotated[SuiteKind, OneOf(SUITES.kinds, "kind")]
