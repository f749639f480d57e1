"""Canaries: rows with a random secret, planted among the training rows to measure what a model memorises of them.

A file of canaries has JSON lines. A line is a family: ``count`` canaries of one form, each planted ``repeats`` times::

    {"id": "locker", "prompt": "What is the code of locker {number}?", "reference": "Its code is {secret}.",
     "alphabet": "abcdefghijklmnopqrstuvwxyz", "length": 6, "count": 60, "repeats": 1, "seed": 17}

The secrets follow from the line alone, so the same file gives the same canaries on every machine. A secret and the
candidates that it is compared with are one sequence of uniform draws. A model that does not depend on the secret
therefore gives it any rank among them with the same probability.

Carlini, Liu, Erlingsson, Kos and Song (2019), "The Secret Sharer", https://arxiv.org/abs/1802.08232, section 4.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from checks.process.errors import EvidenceRefused
from checks.records.record import Consistent, Record, problems
from checks.records.rows import Message
from checks.records.sections import Name, Positive
from checks.storage import files

NUMBER, SECRET = "{number}", "{secret}"
_ROWS = 100_000  # Rows that one line plants, at most.
_GRID = 1 << 22  # places of the distribution of a sum, at most
_ROUNDING = 1e-12  # Rounding in a Fourier transform may hide so much of a tail.
_FIX = "see docs/how-to/privacy.md#plant-canaries for the form of the file"
_Text = Annotated[str, Field(min_length=1)]


class Family(Record, Consistent):
    """A line of the file."""

    id: Name
    prompt: _Text
    reference: _Text
    # Only printable characters, so that no rule on white space changes them.
    alphabet: Annotated[str, Field(pattern=r"^[!-~]{2,94}$")]
    length: Annotated[int, Field(ge=1, le=24)]
    count: Annotated[Positive, Field(le=10_000)]
    repeats: Annotated[Positive, Field(le=10_000)]
    seed: Annotated[int, Field(ge=0)]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        rows = self.count * self.repeats
        return problems(
            (len(set(self.alphabet)) < len(self.alphabet), "alphabet has a letter twice"),
            (
                self.reference.count(SECRET) != 1 or SECRET in self.prompt,
                f"reference must have {SECRET} once, and prompt must not have it",
            ),
            (
                rows > _ROWS,
                f"count × repeats is {rows} rows, above the limit of {_ROWS} for a line",
            ),
            (
                self.count > 1 and NUMBER not in self.prompt,
                f"prompt lacks {NUMBER}, so {self.count} canaries would ask the same",
            ),
        )

    @property
    def secrets(self) -> int:
        """How many secrets there are."""
        return int(len(self.alphabet) ** self.length)

    def drawn(self, number: int) -> Iterator[str]:
        """Distinct secrets for the canary ``number``, each drawn uniformly; the first is the one that is planted."""
        known = set[int]()
        for place in count():
            seed = f"{self.seed}:{self.id}:{number}:{place}".encode()
            drawn = int.from_bytes(hashlib.sha256(seed).digest()) % self.secrets
            if drawn not in known:
                known.add(drawn)
                yield self._word(drawn)

    def _word(self, number: int) -> str:
        letters = []
        for _ in range(self.length):
            number, letter = divmod(number, len(self.alphabet))
            letters.append(self.alphabet[letter])
        return "".join(letters)


class Canary(NamedTuple):
    """One canary. ``line``: that of its family in the file."""

    family: Family
    number: int
    line: int

    @property
    def id(self) -> str:
        """Its name."""
        return f"{self.family.id}-{self.number}"

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return what is asked."""
        return (Message(role="user", content=self.family.prompt.replace(NUMBER, str(self.number))),)

    @property
    def reference(self) -> str:
        """Return the answer that is planted."""
        return self._with(next(self.family.drawn(self.number)))

    def answers(self, candidates: int) -> list[str]:
        """Return the planted answer, then the same with ``candidates`` other secrets."""
        return [
            self._with(secret) for secret in islice(self.family.drawn(self.number), candidates + 1)
        ]

    def _with(self, secret: str) -> str:
        return self.family.reference.replace(NUMBER, str(self.number)).replace(SECRET, secret)


def read(path: Path) -> list[Canary]:
    """Return the canaries of a file. Raises EvidenceRefused with the line that is wrong."""
    try:
        families = files.read_jsonl(path, Family)
    except (
        EvidenceRefused
    ) as refused:  # its advice is about files that a stage writes; a person writes this one
        raise EvidenceRefused(refused.what, _FIX) from refused
    for number, text in enumerate(path.read_bytes().split(b"\n")[: len(families)], 1):
        keys = Counter(json.loads(text, object_pairs_hook=lambda pairs: [key for key, _ in pairs]))
        # Readers differ in which value of a repeated key they take.
        if twice := [key for key, times in keys.items() if times > 1]:
            raise EvidenceRefused(f"{path}:{number}: has the key {twice[0]!r} twice", _FIX)
    planted = [
        Canary(family, number, line)
        for line, family in enumerate(families, 1)
        for number in range(1, family.count + 1)
    ]
    if not planted:
        raise EvidenceRefused(f"{path}: has no lines", _FIX)
    for what, names in (
        ("name", [canary.id for canary in planted]),
        ("prompt", [canary.messages[0].content for canary in planted]),
    ):
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise EvidenceRefused(
                f"{path}: two canaries have the {what} {twice[0][:80]!r}", "change one of them"
            )
    return planted


def rank(answers: Sequence[str], nats: Sequence[float]) -> int:
    """The rank of the first answer: 1 if it needs the fewest nats. A hash decides between answers of equal nats."""

    def key(place: int) -> tuple[float, bytes]:
        return nats[place], hashlib.sha256(answers[place].encode()).digest()

    return 1 + sum(key(place) < key(0) for place in range(1, len(answers)))


def exposure(rank: int, answers: int) -> float:
    """In bits: the logarithm of how many answers there are, less that of the rank."""
    return math.log2(answers / rank)


def rank_of(exposure: float, answers: int) -> int:
    """Return the rank among ``answers`` that has this exposure."""
    return round(answers / 2**exposure)


def by_chance(answers: int) -> float:
    """Return the mean exposure of canaries that a model knows nothing of: 1.44 bits where there are many answers."""
    return math.log2(answers) - math.lgamma(answers + 1) / math.log(2) / answers


def p_unknown(ranks: Sequence[int], answers: int) -> float:
    """Return the p-value of the sum of the exposures, one-sided, if the model does not depend on the secrets.

    Each rank is then uniform from 1 to ``answers``, and independent of the others. The sum is Fisher's statistic (1925)
    for combining tests, with the exact distribution of such ranks in place of chi-square: exposures are rounded up to
    a grid, and their distribution is convolved with itself. The p-value is never too small. Where the grid is coarse,
    the tail of the gamma distribution is a bound too, because a rank divided by ``answers`` is a uniform number rounded
    up.
    """
    import numpy as np
    from scipy.fft import irfft, next_fast_len, rfft
    from scipy.special import gammaincc

    total = math.fsum(exposure(rank, answers) for rank in ranks)
    bound = float(gammaincc(len(ranks), total * math.log(2)))
    most = math.log2(answers)
    # The standard deviation of the sum is 1.44 bits times the root of the number of ranks. Rounding adds at most a
    # fiftieth of it.
    step = max(0.03 / math.sqrt(len(ranks)), len(ranks) * most / _GRID)
    places = np.ceil(np.log2(answers / np.arange(1, answers + 1)) / step).astype(np.int64)
    shares = np.bincount(places) / answers
    size = (len(shares) - 1) * len(ranks) + 1
    fast = next_fast_len(size, real=True)
    every = irfft(rfft(shares, fast) ** len(ranks), fast)[:size]
    tail = float(every[math.ceil(total / step - 1e-6) :].clip(min=0).sum())
    return min(1.0, bound, tail + _ROUNDING)
