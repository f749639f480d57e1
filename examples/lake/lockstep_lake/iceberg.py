"""``iceberg://CATALOG/NAMESPACE.TABLE@SNAPSHOT``: a snapshot of an Apache Iceberg table, by its id.

The catalog is configured as PyIceberg documents it: by variables such as ``PYICEBERG_CATALOG__CATALOG__URI``, or in
``.pyiceberg.yaml``. Addresses and credentials are there, never in params.yaml. The pin is that of the rows as
``rows.jsonl``, in the form of ``lockstep_lake.canonical``: how the table's files are cut, compacted or partitioned
does not count. Columns have the names that they had at the snapshot. The extra ``iceberg`` has PyIceberg.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from checks.process import distribution
from checks.process.errors import MachineRefused, Refusal, SourceRefused
from checks.storage import layout
from lockstep_lake import canonical
from stages.sources import uris
from stages.sources.location import refused

_URI = re.compile(r"([A-Za-z0-9_-]+)/([^./@\s]+(?:\.[^./@\s]+)+)@([0-9]{1,19})")
_BATCH = 4096  # rows that are Python objects at once


@dataclass(frozen=True)
class Table(canonical.Rows):
    """A snapshot of a table."""

    kind = "iceberg"
    catalog: str
    table: str
    snapshot: int

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read catalog, table and snapshot, all three."""
        del root
        match = _URI.fullmatch(rest)
        if match is None:
            raise refused(
                uri,
                field,
                "is not iceberg://CATALOG/NAMESPACE.TABLE@SNAPSHOT",
                "write the catalog's name, /, namespace and table with a dot between, @ and the id of the snapshot",
            )
        return cls(match[1], match[2], int(match[3]))

    def rows(self, field: str) -> Iterator[dict[str, Any]]:
        """Yield the rows by column.

        Raises SourceRefused if the snapshot cannot be read, MachineRefused without the catalog.
        """
        place = f"{layout.PARAMS}: {field}: {self.table} in {self.catalog}"
        catalog, address = _opened(self, field)
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

        try:
            table = catalog.load_table(self.table)
            if table.snapshot_by_id(self.snapshot) is None:
                newest = table.current_snapshot()
                raise SourceRefused(
                    f"{place}: has no snapshot {self.snapshot}, or it has expired",
                    (
                        f"name one that it has; the newest is {newest.snapshot_id}"
                        if newest
                        else "the table is empty"
                    ),
                )
            for batch in table.scan(snapshot_id=self.snapshot).to_arrow_batch_reader():
                for start in range(0, batch.num_rows, _BATCH):
                    yield from batch.slice(start, _BATCH).to_pylist()
        except Refusal:
            raise
        except (NoSuchTableError, NoSuchNamespaceError) as error:
            raise SourceRefused(
                f"{place}: there is no such table", "check the names of namespace and table"
            ) from error
        except Exception as error:  # each catalog and each store of files raises its own
            raise SourceRefused(
                f"{place}: {uris.reason(error, address)}",
                "check that catalog and files can be reached, and the credentials",
            ) from error


def _opened(asked: Table, field: str) -> tuple[Any, str]:
    """The catalog and its address. Nothing is made in it."""
    place = f"{layout.PARAMS}: {field}: catalog {asked.catalog}"
    with distribution.needed(f"{place}: iceberg:// needs PyIceberg", "iceberg"):
        from pyiceberg.catalog import load_catalog
        from pyiceberg.exceptions import NotInstalledError
        from pyiceberg.utils.config import Config
    address = ""
    try:
        known = Config().get_catalog_config(asked.catalog)
        if known is None:
            variable = f"PYICEBERG_CATALOG__{asked.catalog.upper()}__URI"
            raise MachineRefused(
                f"{place}: is not configured here", f"set {variable}, or write .pyiceberg.yaml"
            )
        address = str(known.get("uri", ""))
        return load_catalog(asked.catalog, init_catalog_tables="false", **known), address
    except Refusal:
        raise
    except (NotInstalledError, ImportError) as error:
        raise MachineRefused(
            f"{place}: {uris.reason(error, address)}", "install what it names"
        ) from error
    except Exception as error:  # each catalog raises its own
        raise MachineRefused(
            f"{place}: {uris.reason(error, address)}",
            "check its address, its settings and the credentials",
        ) from error
