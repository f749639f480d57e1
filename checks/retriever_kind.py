"""The interface of a retriever of suites of kind ``rag``: a subclass of ``RetrieverKind``, in one file of
``checks/retrievers`` or of a user's package.
"""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from checks.sections import Section, Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Pooling = Literal["mean", "first"]
# Texts, how a text's vector is made of its tokens', and the most tokens of a text that count (None: all), to vectors of
# length 1, of shape (texts, width).
Embed = Callable[[Sequence[str], Pooling, int | None], "NDArray[np.float64]"]
# The same, by the encoder of a folder.
Encode = Callable[[Path, Sequence[str], Pooling, int | None], "NDArray[np.float64]"]

DECIMALS = 6  # further ones are rounding: of equal scores the passage that comes first in the corpus ranks first


class RetrieverKind(Section, abc.ABC):
    """The parameters of a retriever in params.yaml, and how it ranks."""

    kind: str

    @property
    def sources(self) -> Mapping[str, Source]:
        """The folder of its embedder, if it has one, by the path of its parameter."""
        return {}

    @abc.abstractmethod
    def ranked(self, passages: Sequence[str], questions: Sequence[str], embed: Embed) -> Iterator[Sequence[int]]:
        """For each question the places of those ``passages`` that it finds, best first.

        ``embed`` is by the model of ``sources``. Raises ValueError where the passages cannot be searched.
        """


def no_encoder(*_: object) -> "NDArray[np.float64]":
    """Only the stage suites has one."""
    raise NotImplementedError
