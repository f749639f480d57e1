"""All retrievers of suites of kind ``rag``, one module each.

A package of a user adds its own through entry points of the group ``lockstep.retrievers``. ``checks.retriever_kind``
says what one must have.
"""

import sys
from typing import TYPE_CHECKING, Annotated

from checks import plugins
from checks.kinds import OneOf
from checks.retriever_kind import RetrieverKind

RETRIEVERS: plugins.Registry[type[RetrieverKind]] = plugins.collect(
    "lockstep.retrievers", sys.modules[__name__], plugins.subclass_of(RetrieverKind), plugins.tag
)

if TYPE_CHECKING:
    Retriever = RetrieverKind
else:
    Retriever = Annotated[RetrieverKind, OneOf(RETRIEVERS.kinds, "kind")]
