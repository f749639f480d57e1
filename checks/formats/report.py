"""The fields that all reports of stages share: a schema version, and the digests of their subjects.

So evidence about other bytes is recognised. Digests are ``sha256:<hex>`` as ``checks.storage.digest`` defines them.
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from checks.records.record import Digest, Plugin, PluginName, Record, Sparse
from checks.storage import digest

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]  # also the name of a file
# The 16-bit model that was quantised: one of the models that answer, with which gates can compare.
UNQUANTISED: Final = "unquantised"
# The result of a verdict, of a finding, or of a window of production.
Status = Literal["pass", "fail", "inconclusive"]
Count = Annotated[int, Field(ge=0, lt=2**63)]


def _named(path: str) -> str:
    if not digest.is_name(path):
        raise ValueError(f"{path!r} cannot be the path of a file in a tree")
    return path


TreePath = Annotated[str, AfterValidator(_named)]  # relative, as a manifest has it


class Report(Record):
    """A report with a schema version; another version is refused."""

    schema_version: Literal[1] = 1


class StageReport(Report, Sparse):
    """The report of a stage that can use kinds from other packages; ``plugins`` has the digests of their code.

    If a stage used only Lockstep's own kinds, ``plugins`` is not written.
    """

    sparse: ClassVar[frozenset[str]] = frozenset({"plugins"})

    plugins: dict[PluginName, Plugin] = Field(default_factory=dict)


class Fetched(Record):
    """One source: its address, the verified pin, and the digest of the directory made from it."""

    uri: str
    sha256: str
    size: Count  # bytes that were hashed
    files: Count
    digest: Digest  # The output directory's digest.
    license: str | None  # The text in params.yaml.
    # The licence that the source states, in its own spelling; None if it states none.
    declared: str | None
    chat_template: Digest | None = None  # The digest of its text; only a base has one.
