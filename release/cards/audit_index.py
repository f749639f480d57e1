"""Defines the index of an audit pack, ``index.json``: each file with its digest, and what auditors ask beside it.

docs/audit.schema.json is its JSON Schema, for whoever reads one without Lockstep.
"""

from datetime import datetime
from typing import Any, Literal

from checks.formats.pointer import Image, Version
from checks.formats.report import Count
from checks.records.record import Digest
from checks.records.rows import Record

INDEX = "index.json"
# "signature": a statement that somebody signed. "statement": the release's signed statement names its digest.
# "git": copied from the commits that the index names. "pack": made by `lockstep audit`, of the other files.
Bound = Literal["signature", "statement", "git", "pack"]


class PackedFile(Record):
    """A file of the pack: what it answers, and what binds it to the release."""

    path: str
    sha256: Digest
    size: Count
    answers: str
    bound_by: Bound


class SignedFile(Record):
    """A signed statement: a DSSE envelope, or a Sigstore bundle of one, and who signed it.

    Either ``key``, a file of the pack, or ``identities`` of a certificate with its ``issuer``; of a workflow of GitHub
    also the ``repository`` and the ``ref`` whose code ran. ``subject``: a file of the pack that the statement is about
    by SHA-256; None: it is about the weights.
    """

    path: str
    predicate_type: str
    signer: str
    key: str | None
    identities: tuple[str, ...]
    issuer: str | None
    repository: str | None
    ref: str | None
    subject: str | None


class LeftOut(Record):
    """A file that is not in the pack, and why."""

    what: str
    why: str


class Answer(Record):
    """One question: ``source`` asks it, ``files`` answer it, and ``lacks`` says which part of it no record has."""

    source: str
    asks: str
    files: tuple[str, ...]
    lacks: str


class AuditIndex(Record):
    """One release as the ledger has it at ``commit`` of ``branch``; ``signers_commit`` has the signers that count.

    The pack covers the time from ``since``, when the release was first deployed, up to ``until``; None: it runs.
    """

    schema_version: Literal[1] = 1
    name: str
    version: Version
    image: Image
    model: Digest
    record_commit: str
    branch: str
    commit: str
    signers_commit: str | None
    since: datetime
    until: datetime | None
    tool: str
    files: tuple[PackedFile, ...]
    statements: tuple[SignedFile, ...]
    left_out: tuple[LeftOut, ...]
    answers: tuple[Answer, ...]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the index."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:lockstep:audit:v1",
        **AuditIndex.model_json_schema(mode="serialization"),
        "description": f"The file {INDEX} of an audit pack that `lockstep audit` wrote.",
    }
