"""external: scores that any tool wrote as JSON lines.

A line is a ``Scored`` of ``checks.formats.suite_report``, and nothing more::

    {"sample": "q1", "sample_sha": "sha256:…", "model": "sha256:…", "metric": "accuracy", "value": 1.0, "group": "q1",
     "slice": "all"}
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from checks.formats.suite_report import Scored, SourceClass
from checks.kinds.suite import LogSuite
from checks.storage import files


class External(LogSuite):
    """Scores that any tool wrote, a JSON object a line."""

    kind: Literal["external"]
    source: Annotated[SourceClass, Field(description="what the scores rest on")]

    @property
    def evidence(self) -> SourceClass:
        """As it is declared: nothing here can tell."""
        return self.source

    def convert(self, log: Path) -> Iterable[Scored]:
        """The lines as they are."""
        return files.read_jsonl(log, Scored)
