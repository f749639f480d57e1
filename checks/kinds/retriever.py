"""The interface of a retriever of suites of kind ``rag``: a subclass of ``RetrieverKind``, in one file of
``checks/retrievers`` or of a user's package.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, NoReturn

from checks.kinds.registry import Registry
from checks.records.sections import Section, Source, sources_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Pooling = Literal["mean", "first"]
# Texts, how a text's vector is made of its tokens', and the most tokens of a text that count (None: all), to vectors of
# length 1, of shape (texts, width).
Embed = Callable[[Sequence[str], Pooling, int | None], "NDArray[np.float32]"]
# Pairs of a question and a passage, and the most tokens of a pair that count (None: all), to a score of each.
Relevance = Callable[[Sequence[tuple[str, str]], int | None], "NDArray[np.float64]"]
# As above, but the first argument names the source of the suite that has the model.
Encode = Callable[[str, Sequence[str], Pooling, int | None], "NDArray[np.float32]"]
Relate = Callable[[str, Sequence[tuple[str, str]], int | None], "NDArray[np.float64]"]

DECIMALS = 6  # further ones are rounding: of equal scores the passage that comes first in the corpus ranks first


class Search(NamedTuple):
    """The passages that are searched, and the question.

    ``where`` is the retriever in params.yaml, for refusals. ``passages`` and ``questions`` are texts by id, in order.
    ``embed`` uses the model among the retriever's ``sources``; ``files`` has the verified copy of each source.
    """

    where: str
    passages: Mapping[str, str]
    questions: Mapping[str, str]
    embed: Embed
    files: Mapping[str, Path]


class RetrieverKind(Section, abc.ABC):
    """The parameters of a retriever in params.yaml, and how it ranks."""

    kind: str

    @property
    def sources(self) -> Mapping[str, Source]:
        """Return what it needs, such as the folder of its embedder, by the path of its parameter."""
        return sources_in(self)

    @property
    def folders(self) -> frozenset[str]:
        """Those of ``sources`` that are folders: all of them, unless a kind says otherwise."""
        return frozenset(self.sources)

    @abc.abstractmethod
    def ranked(self, search: Search, most: int) -> Iterator[Sequence[int]]:
        """For each question the places of at most ``most`` passages that it finds, best first.

        Raises ValueError where the passages cannot be searched.
        """


def best(scores: "NDArray[np.float64]", most: int) -> list[int]:
    """The places of the ``most`` largest scores, the largest first, equal ones in their order; -inf: not found."""
    import numpy as np

    places = np.flatnonzero(scores > -np.inf)
    # Partitioning a million passages takes a tenth of the time of sorting them.
    if len(places) > most:
        known = scores[places]
        places = places[known >= np.partition(known, -most)[-most]]
    order = places[np.argsort(-scores[places], kind="stable")]
    return [int(place) for place in order[:most]]


def no_model(*_: object) -> NoReturn:
    """Stand in for a model that is asked, in callers that load none: all but the stage suites."""
    raise NotImplementedError("only the stage suites can ask a model")


RETRIEVERS: Registry[RetrieverKind] = Registry("lockstep.retrievers", RetrieverKind)
Retriever = Annotated[RetrieverKind, RETRIEVERS]
