"""The base of every value that steps exchange, and the names in it: digests, commits, and packages that add kinds."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
CommitHash = Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
# The first 12 hex digits of a model's digest, as the folder of its weights ends.
ReleaseDigits = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
# The id of a captured request, or the name of its environment.
CapturedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
# What evidence calls a kind from outside, such as lockstep.gates:no-secrets.
PluginName = Annotated[str, Field(pattern=r"^lockstep\.[a-z]{1,30}:[a-z0-9][a-z0-9_-]{0,59}$")]


class Consistent(BaseModel):
    """A value that is refused if its fields contradict each other."""

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction. The first one refuses the value."""
        return iter(())

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for problem in self.contradictions():
            raise ValueError(problem)
        return self


def problems(*checked: tuple[object, str]) -> Iterator[str]:
    """Yield the text of each pair of a condition and a text whose condition holds."""
    return (text for holds, text in checked if holds)


class Record(BaseModel):
    """A value that steps exchange: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Sparse(Record):
    """A record that omits empty fields among ``sparse`` when it is written.

    So files that do not use such a field have the same bytes as before the field existed.
    """

    sparse: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value for name, value in handler(self).items() if value or name not in self.sparse
        }


class Plugin(Record):
    """The package of an external kind; ``sha256`` is the digest of its code (``checks.kinds.plugins``)."""

    distribution: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]{0,99}$")]
    sha256: Digest
