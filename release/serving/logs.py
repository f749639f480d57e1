"""Reads a server's log: its last lines, and the lines that say why it failed.

The last lines are often a wrapper's ("see root cause above"), so exceptions are searched in the whole log that is kept.
Known formats: Python tracebacks, the prefixes of vLLM and uvicorn, TGI's JSON lines, and errors of command-line tools
and Rust.
"""

import json
import re
from collections.abc import Iterator

from checks.process.text import escape

KEPT = 4 << 20  # bytes of the end of a log that are read
_WIDTH = 300  # characters of a line
_CAUSES = 3
_MORE = 2  # lines that an exception's message may go on for
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PREFIX = re.compile(
    r"(?:\([\w-]+ pid=\d+\)\s*)?"  # vLLM: which of its processes
    r"(?:(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL):?\s+)(?:[\d-]+ [\d:.,]+ )?(?:\[[^\]]*\]\s?)?)?"
)
_EXCEPTION = re.compile(r"(?:\w+\.)*(?:[A-Z]\w*)?(?:Error|Exception|Exit|Failure)(?:: \S.*|$)")
_ELSEWHERE = re.compile(r"root cause")  # an exception that only says that there was another
_ERROR = re.compile(
    r"(?:[\w.-]+: )?(?:[Ee]rror|fatal): \S|.*\bpanicked at |Killed$|Segmentation fault|Bus error"
)


def tail(log: bytes, lines: int) -> str:
    """The last lines of a log: printable, without colours and empty lines, shortened."""
    return "\n".join(map(_short, _lines(log)[-lines:]))


def causes(log: bytes) -> tuple[str, ...]:
    """The last exceptions or errors in a log: at most three, in order, each once; empty if there are none."""
    causes_found: dict[str, None] = {}
    errors: dict[str, None] = {}
    rows = list(_records(log))
    for place, (level, text) in enumerate(rows):
        line = text.strip()
        # The line is inside a traceback, or tells no failure.
        if text[:1].isspace() or level in ("DEBUG", "INFO", "WARNING"):
            continue
        if _EXCEPTION.match(line):
            more = []
            for _, next_one in rows[place + 1 : place + 1 + _MORE]:
                if not next_one[:1].isspace() or next_one.lstrip().startswith("File "):
                    break
                more.append(next_one.strip())
            _again(causes_found, _short(" ".join([line, *more])))
        elif level in ("ERROR", "CRITICAL", "FATAL") or _ERROR.match(line):
            _again(errors, _short(line))
    first = [cause for cause in causes_found if not _ELSEWHERE.search(cause)]
    return tuple(first or causes_found or errors)[-_CAUSES:]


def why(log: bytes) -> str:
    """The causes, or else the last lines, as the end of a sentence."""
    if causes_found := causes(log):
        return f"; its log says: {' / '.join(causes_found)}"
    if last := tail(log, 5).splitlines():
        return f"; its log ends: {' / '.join(last)}"
    return "; its log is empty"


def _again(found: dict[str, None], text: str) -> None:
    """Append ``text`` and remove it elsewhere."""
    found.pop(text, None)
    found[text] = None


def _lines(log: bytes) -> list[str]:
    text = _COLOURS.sub("", log[-KEPT:].decode(errors="replace"))
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def _records(log: bytes) -> Iterator[tuple[str | None, str]]:
    """The level (if any) and message of each line."""
    for line in _lines(log):
        level, message = None, line
        if line.startswith("{"):
            try:
                record = json.loads(line)
                message = (record.get("fields") or {}).get("message") or line
                level = record.get("level")
            except (ValueError, AttributeError, RecursionError):
                pass
        for part in str(message).splitlines():
            if not part.strip():
                continue
            prefix = _PREFIX.match(part)
            assert prefix is not None  # it may be empty
            yield level or prefix["level"], part[prefix.end() :] or part


def _short(line: str) -> str:
    return escape(line[:_WIDTH])
