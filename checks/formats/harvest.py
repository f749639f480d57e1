"""Harvested rows: captured requests with their labels as a source of training or of tests, and the review of them.

The rows lie with the captures, never in git: CAPTURES/harvest/ENV-DIGITS.jsonl. A line is

{"id": "sha256:…", "messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "az …"}],
 "environment": "production", "release": "2bf8835691b3"}

``id`` is the digest of the request's id. The review, labels/harvest/ENV.json, is in git. It has counts and digests, and
no text. A signer with the role ``harvest`` signs it into ENV.intoto.json beside it. Of a test split it is
ENV.test.json.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from checks.formats.report import Count
from checks.records.record import (
    CapturedName,
    Consistent,
    Digest,
    Record,
    ReleaseDigits,
    Sparse,
    problems,
)
from checks.records.rows import Message
from checks.records.sections import Name
from checks.storage import digest, layout

Split = Literal["train", "test"]

FOLDER = "harvest"  # below the captures
ERASED = layout.HARVESTS / "erased.jsonl"


class HarvestedRow(Record):
    """A request with the answer that it should have had, as the last of ``messages``. ``release``: what answered."""

    id: Digest
    messages: tuple[Message, ...]
    environment: CapturedName
    release: ReleaseDigits | None


class Origin(Sparse):
    """Where a row came from. ``request``: the digest of the request's id, which is the id of the row.

    ``by``: who labelled it; None: people.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"by"})

    request: Digest
    release: ReleaseDigits | None
    by: Literal["judge"] | None = None


class Judged(Record):
    """How the judge of ``suite`` labelled requests that people did not: an answer that it calls right is a label.

    ``judge``: the digest of its section in params.yaml. ``asked``: requests without a label; ``labelled``: the answers
    to requests with people's label that it calls right, one for each user; ``wrong``: how many of these are not what
    the label says.
    """

    suite: Name
    judge: Digest
    asked: Count
    labelled: Count
    wrong: Count


class Sampling(Record):
    """How the rows of a test split were drawn: at random, by a hash of ``seed`` and the request's id.

    ``needed``: the test rows that each gate with a margin needs, and the fewest that validate accepts.
    """

    seed: int
    needed: dict[str, Count]


class Review(Sparse, Consistent):
    """The review of a source, which a person signs before its rows are trained on or test a model.

    ``uri``, ``sha256``: the source, as params.yaml pins it. ``consent``: what allows training on these requests.
    ``compared``: the splits whose rows, and rows nearly like them, were kept out. ``requests``: how many were captured;
    ``labelled``: how many of these have a label; ``refused``: how many labelled ones did not become rows, by reason.
    ``as_answered``: how many rows have the label that the model answered. ``sampling``: None: the rows
    are for training. ``judged``: None: people labelled all rows.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"sampling", "judged"})

    environment: CapturedName
    since: AwareDatetime | None
    until: AwareDatetime | None
    uri: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    license: Annotated[str, Field(min_length=1, max_length=200)]
    consent: Annotated[str, Field(min_length=1, max_length=500)]
    compared: tuple[Literal["test", "valid", "sealed"], ...]
    requests: Count
    labelled: Count
    refused: dict[str, Count]
    as_answered: Count
    origins: Annotated[tuple[Origin, ...], Field(min_length=1)]
    sampling: Sampling | None = None
    judged: Judged | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction."""
        return problems(
            (self.judged and self.sampling, "a judge labels no rows that test a model"),
            (
                self.by_judge and not self.judged,
                "rows are by a judge that the review does not name",
            ),
        )

    @property
    def by_judge(self) -> int:
        """Return how many rows a judge labelled."""
        return sum(origin.by == "judge" for origin in self.origins)

    @property
    def split(self) -> Split:
        """Return the split that the rows are for."""
        return "test" if self.sampling else "train"

    @property
    def path(self) -> Path:
        """Return where this review lies."""
        return review_path(self.environment, self.split)


class Erased(Record):
    """A request that was erased, and may be in no source any more."""

    request: Digest


def request_digest(request_id: str) -> str:
    """Return the digest by which rows and reviews name a request."""
    return digest.of_bytes(request_id.encode())


def review_path(environment: str, split: Split = "train") -> Path:
    """Return where the review of an environment's rows for ``split`` lies. No environment's name has a dot."""
    return layout.HARVESTS / f"{environment}{'.test' if split == 'test' else ''}.json"


def source_bytes(rows: Iterable[HarvestedRow]) -> bytes:
    """Return the file of the source. The same rows give the same bytes, whatever their order."""
    lines = sorted(digest.canonical_json(row.model_dump(mode="json")) for row in rows)
    return b"".join(line + b"\n" for line in lines)
