"""``sql://VARIABLE/KEY,KEY SELECT …``: the rows of a query, ordered by their key columns, through SQLAlchemy.

The environment variable has the database's address, with its password: params.yaml has neither. In params.yaml, a
folded text (``uri: >-``) has the query on lines of its own. The pin is that of the rows as ``rows.jsonl``, in the form
of ``lockstep_lake.canonical``: the order in which the database gives them does not count.

The query runs in one transaction that can only read. The extra ``sql`` has SQLAlchemy, and psycopg for PostgreSQL.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from checks.process import distribution
from checks.process.errors import MachineRefused, SourceRefused
from checks.storage import layout
from lockstep_lake import canonical
from stages.sources import uris
from stages.sources.location import refused

_COLUMN = "[A-Za-z_][A-Za-z0-9_]*"
_URI = re.compile(rf"([A-Z][A-Z0-9_]*)/({_COLUMN}(?:,{_COLUMN})*) +((?i:select|with) .+)")
_FORM = "sql://VARIABLE/KEY SELECT …"
_READ_ONLY = {  # how each kind of database is told that a transaction only reads
    "postgresql": "SET TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}
_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg"}
_BATCH = 1000  # rows that are in memory at once, besides their lines


@dataclass(frozen=True)
class Query(canonical.Rows):
    """The rows of a query in the database whose address is in an environment variable."""

    kind = "sql"
    variable: str
    keys: tuple[str, ...]
    query: str

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read the variable's name, the key columns and the query, all three."""
        del root
        match = _URI.fullmatch(rest)
        if match is None:
            raise refused(
                uri,
                field,
                f"is not {_FORM}",
                "write the name of an environment variable, key columns and a query; the variable has the address",
            )
        query = match[3].strip()
        if ";" in query:
            raise refused(uri, field, "holds a semicolon", "write one query, without a semicolon")
        return cls(match[1], tuple(match[2].split(",")), query)

    def rows(self, field: str) -> Iterator[dict[str, Any]]:
        """Yield the rows by column.

        Raises SourceRefused if the database refuses, MachineRefused if it cannot be asked here.
        """
        place = f"{layout.PARAMS}: {field}"
        address = os.environ.get(self.variable)
        example = "such as postgresql://user:password@host/database"
        if not address:
            raise MachineRefused(
                f"{place}: the variable {self.variable} is not set",
                f"set it to an address, {example}",
            )
        with distribution.needed(f"{place}: sql:// needs SQLAlchemy", "sql"):
            import sqlalchemy
            from sqlalchemy.exc import ArgumentError, SQLAlchemyError
        try:
            url = sqlalchemy.make_url(address)
            url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
            engine = sqlalchemy.create_engine(
                url, poolclass=sqlalchemy.NullPool, hide_parameters=True
            )
        except (ArgumentError, ValueError) as error:
            raise MachineRefused(
                f"{place}: {self.variable} is no address of a database", f"write one, {example}"
            ) from error
        except ImportError as error:
            raise MachineRefused(
                f"{place}: {self.variable}: {uris.reason(error, address)}",
                f"{distribution.install('sql')}, or the driver that the address names",
            ) from error
        if (read_only := _READ_ONLY.get(engine.dialect.name)) is None:
            raise SourceRefused(
                f"{place}: {self.variable}: {engine.dialect.name} is not known to read only",
                f"use one of {', '.join(sorted(_READ_ONLY))}, or export the rows to a file",
            )
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(read_only))
                # no_parameters: a % of the query is no placeholder.
                streaming = connection.execution_options(
                    stream_results=True, max_row_buffer=_BATCH, no_parameters=True
                )
                result = streaming.exec_driver_sql(self.query)
                names = list(result.keys())
                if len(set(names)) < len(names):
                    raise canonical.refused(
                        field,
                        f"the query names a column twice: {', '.join(names)}",
                        "name each once, by AS",
                    )
                for row in result.yield_per(_BATCH):
                    yield dict(zip(names, row, strict=True))
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise SourceRefused(
                f"{place}: {self.variable}: {uris.reason(cause, address)}",
                "check the query, the address and that the database can be reached",
            ) from error

    def key(self, field: str) -> canonical.Key:
        """The values of the key columns. Raises SourceRefused for a row without one of them."""

        def of(row: Mapping[str, Any]) -> tuple[Any, ...]:
            if absent := [name for name in self.keys if name not in row]:
                raise canonical.refused(
                    field,
                    f"the query gives no column {absent[0]}, only {', '.join(row)}",
                    "select the key columns too",
                )
            return tuple(row[name] for name in self.keys)

        return of
