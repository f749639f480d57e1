"""Names in evidence: digests, and packages that add kinds."""

from typing import Annotated

from pydantic import Field

from checks.records.rows import Record

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
CommitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
# What evidence calls a kind from outside, such as lockstep.gates:no-secrets.
PluginName = Annotated[str, Field(pattern=r"^lockstep\.[a-z]{1,30}:[a-z0-9][a-z0-9_-]{0,59}$")]


class Plugin(Record):
    """The package of an external kind; ``sha256`` is the digest of its code (``checks.kinds.plugins``)."""

    distribution: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]{0,99}$")]
    sha256: Digest
