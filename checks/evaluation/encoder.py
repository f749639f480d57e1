"""An encoder of texts as a section of params.yaml; it compares texts by the cosines of their vectors."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from checks.kinds.retriever import DECIMALS, Embed, Pooling
from checks.records.sections import Log, Positive, Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COSINES = 2**24  # held at a time: 128 MiB
_PASSAGES = 2**13  # So many passages have their vectors in float64 at a time.


class Vectors(Section):
    """The encoder, and how it is asked."""

    model: Annotated[
        Log,
        Field(description="folder of an encoder: config, tokenizer, and weights in safetensors"),
    ]
    pooling: Annotated[
        Pooling,
        Field(description="a text's vector: the mean of its tokens' vectors, or the first token's"),
    ]
    max_tokens: Annotated[
        Positive | None,
        Field(
            description="tokens of a text that count; null: all, and one that is too long is refused"
        ),
    ] = None
    question_prefix: Annotated[
        str | None, Field(description="put before questions, if the encoder's card says so")
    ] = None
    passage_prefix: Annotated[
        str | None, Field(description="put before passages, if the encoder's card says so")
    ] = None

    def scores(
        self, passages: Sequence[str], questions: Sequence[str], embed: Embed
    ) -> "Iterator[NDArray[np.float64]]":
        """For each question the cosine of each passage."""
        import numpy as np

        texts = [(self.passage_prefix or "") + text for text in passages]
        texts += [(self.question_prefix or "") + text for text in questions]
        vectors = embed(texts, self.pooling, self.max_tokens)
        known, asked = vectors[: len(passages)], vectors[len(passages) :].astype(np.float64)
        step = max(1, _COSINES // len(known))
        for first in range(0, len(asked), step):
            some = asked[first : first + step]
            near = np.empty((len(some), len(known)))
            for start in range(0, len(known), _PASSAGES):
                block = slice(start, start + _PASSAGES)
                near[:, block] = some @ known[block].astype(np.float64).T
            yield from np.round(near, DECIMALS, out=near)
