"""Reads and writes the JSON files of a model's folder."""

import json
from pathlib import Path
from typing import Any

from checks.process.errors import Refusal
from checks.storage import files


def read(path: Path, refusal: type[Refusal], place: str = "") -> dict[str, Any]:
    """Read a JSON object. ``place`` comes before the file's name in a refusal. Raises ``refusal``."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"cannot be read: {error}"
        raise refusal(f"{place}{path.name}: {reason}", "name a complete model folder") from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"{place}{path.name}: is not JSON", "export the model again") from error
    if not isinstance(value, dict):
        raise refusal(f"{place}{path.name}: is not a JSON object", "export the model again")
    return value


def write(path: Path, value: dict[str, Any]) -> None:
    """Write ``value`` as transformers writes it. Infinity, which some configs contain, is kept: Python reads it."""
    files.write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
