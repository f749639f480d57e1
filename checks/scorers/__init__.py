"""All scorers of predictions, one module each.

A package of a user adds its own through entry points of the group ``lockstep.scorers``. ``checks.scorer_kind`` says
what a scorer must have; ``checks.evaluation.scoring`` scores by them.
"""

import sys
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from checks import plugins
from checks.scorer_kind import ScorerKind

GROUP = "lockstep.scorers"
KINDS: plugins.Registry[type[ScorerKind]] = plugins.collect(
    GROUP,
    sys.modules[__name__],
    plugins.subclass_of(ScorerKind),
    plugins.tag,
    lambda kind: kind.rank,
)

if TYPE_CHECKING:
    Scorer = ScorerKind
else:
    Scorer = Annotated[Union[tuple(KINDS.kinds.values())], Field(discriminator="kind")]  # noqa: UP007 - of a tuple
