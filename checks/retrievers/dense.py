"""dense: passages whose vectors are nearest to the question's, all compared exactly.

An encoder of transformers gives the vectors; its folder is pinned, and in safetensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from checks.retriever_kind import DECIMALS, Embed, Pooling, RetrieverKind
from checks.sections import Positive, Section, Source
from checks.suite_kind import Log


class Vectors(Section):
    """The encoder, and how it is asked."""

    model: Annotated[Log, Field(description="folder of an encoder: config, tokenizer, and weights in safetensors")]
    pooling: Annotated[
        Pooling, Field(description="a text's vector: the mean of its tokens' vectors, or the first token's")
    ]
    max_tokens: Annotated[
        Positive | None,
        Field(description="tokens of a text that count; null: all, and one that is too long is refused"),
    ] = None
    question_prefix: Annotated[str | None, Field(description="put before questions, if the encoder's card says so")] = (
        None
    )
    passage_prefix: Annotated[str | None, Field(description="put before passages, if the encoder's card says so")] = (
        None
    )

    def places(self, passages: Sequence[str], questions: Sequence[str], embed: Embed) -> Iterator[list[int]]:
        """For each question the places of all passages, the largest cosine first."""
        import numpy as np

        texts = [(self.passage_prefix or "") + text for text in passages]
        texts += [(self.question_prefix or "") + text for text in questions]
        found = embed(texts, self.pooling, self.max_tokens)
        near = np.round(found[len(passages) :] @ found[: len(passages)].T, DECIMALS)
        yield from ([int(place) for place in np.argsort(-row, kind="stable")] for row in near)


class Dense(Vectors, RetrieverKind):
    """Ranks passages by the cosine of their vectors with the question's, compared exactly."""

    kind: Literal["dense"]

    @property
    def sources(self) -> Mapping[str, Source]:
        """The encoder."""
        return {"model": self.model}

    def ranked(self, passages: Sequence[str], questions: Sequence[str], embed: Embed) -> Iterator[list[int]]:
        """By vectors alone."""
        return self.places(passages, questions, embed)
