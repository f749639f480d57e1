"""How sampled answers are drawn. Without it, an answer has the most likely token at each place.

transformers draws the same answers again on every machine. An engine draws by random numbers of its own, from a seed
for each draw of a row: its draws are recorded, and nobody asks for them again to compare them.
"""

import hashlib
from typing import Annotated

from pydantic import Field

from checks.records.sections import Positive, Section


class Decoding(Section):
    """``evaluate.decoding``. A server that gets these numbers samples from the same distribution."""

    temperature: Annotated[float, Field(ge=0.001, le=2, description="divides the logits")]
    top_p: Annotated[
        float,
        Field(
            gt=0, le=1, description="the most likely tokens with this probability together; 1: all"
        ),
    ]
    draws: Annotated[
        Positive, Field(le=64, description="answers to each row; its score is their mean")
    ]
    seed: Annotated[int, Field(ge=0, description="of the random numbers")]

    def stream(self, row: str, draw: int) -> str:
        """Name the random numbers of one draw of one row."""
        return f"{self.seed}\0{row}\0{draw}"

    def seed_of(self, row: str, draw: int) -> int:
        """Return the seed that an engine gets for one draw of one row, of 31 bits."""
        return int.from_bytes(hashlib.sha256(self.stream(row, draw).encode()).digest()[:4]) >> 1

    @property
    def named(self) -> str:
        """The distribution, for a sentence."""
        return f"temperature {self.temperature:g}, top_p {self.top_p:g}"


def draws(decoding: Decoding | None) -> int:
    """Return how often each row is answered."""
    return 1 if decoding is None else decoding.draws


def uniform(stream: str, place: int) -> float:
    """Return the random number in [0, 1) for the token at ``place`` of an answer.

    It depends on nothing else, so that no other row of a batch changes it.
    """
    drawn = hashlib.sha256(f"{stream}\0{place}".encode()).digest()
    return (int.from_bytes(drawn[:8]) >> 12) / (1 << 52)
