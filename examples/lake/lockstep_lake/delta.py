"""``delta://TABLE@VERSION``: a version of a Delta Lake table, at a path, or at ``s3://`` and the like.

The pin is that of the rows as ``rows.jsonl``, in the form of ``lockstep_lake.canonical``: how the table's files are
cut, compacted or partitioned does not count. Credentials come from the store's usual environment variables, such as
AWS_ACCESS_KEY_ID. The extra ``delta`` has deltalake.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from checks.process import distribution
from checks.process.errors import SourceRefused
from checks.storage import layout
from lockstep_lake import canonical
from stages.sources import uris
from stages.sources.location import refused

_URI = re.compile(r"(.+)@([0-9]{1,18})")
_BATCH = 4096  # rows that are read at once


@dataclass(frozen=True)
class Table(canonical.Rows):
    """A version of a table."""

    kind = "delta"
    table: str
    version: int

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read the table's place and version, both; a relative path begins at ``root``."""
        match = _URI.fullmatch(rest)
        if match is None:
            raise refused(
                uri,
                field,
                "is not delta://TABLE@VERSION",
                "write the table's path or URL, @ and its version",
            )
        place = match[1]
        if uris.split(place)[0] is None:
            place = str(root / place)
        elif uris.redact(place) != place:
            raise refused(
                uri,
                field,
                "holds a user, a password or a query",
                "leave the credentials to the environment, such as AWS_ACCESS_KEY_ID",
            )
        return cls(place, int(match[2]))

    def rows(self, field: str) -> Iterator[dict[str, Any]]:
        """Yield the rows. Raises SourceRefused if the table cannot be read, MachineRefused without deltalake."""
        place = f"{layout.PARAMS}: {field}"
        with distribution.needed(f"{place}: delta:// needs deltalake", "delta"):
            import pyarrow as pa
            from deltalake import DeltaTable
            from deltalake.exceptions import DeltaError
        try:
            table = DeltaTable(self.table)
            if self.version > (latest := table.version()):  # deltalake would search for years
                raise SourceRefused(
                    f"{place}: {self.table}: has no version {self.version}",
                    f"name one up to {latest}",
                )
            table.load_as_version(self.version)
            for batch in table.to_pyarrow_dataset().to_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
        except (DeltaError, pa.ArrowException, OSError) as error:
            raise SourceRefused(
                f"{place}: {self.table}@{self.version}: {uris.reason(error, self.table)}",
                "check the table's place, that it has this version, and the credentials",
            ) from error
