"""Strict JSON: any two readers of the same bytes see the same value, or both refuse it."""

import json
from typing import Any, NoReturn

from checks.process.errors import EvidenceRefused
from checks.storage.digest import canonical_json

_FIX = "sign the release again, or restore the file from git's history"


def read(data: bytes, where: str, largest: int) -> dict[str, Any]:
    """Return the JSON object in ``data``; ``where`` names it in messages.

    Raises EvidenceRefused if it has more than ``largest`` bytes, is not an object in UTF-8, or repeats a key.
    """
    if len(data) > largest:
        raise EvidenceRefused(
            f"{where}: has {len(data):,} bytes, at most {largest:,} are read", _FIX
        )
    try:
        # From text, not bytes: json would guess UTF-16 and UTF-32 as well.
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
        canonical_json(value)  # half a surrogate pair is not text
    except _TwiceError as error:
        raise EvidenceRefused(f"{where}: writes the key {error.args[0]!r} twice", _FIX) from error
    except (ValueError, RecursionError) as error:
        raise EvidenceRefused(f"{where}: is not JSON", _FIX) from error
    if not isinstance(value, dict):
        raise EvidenceRefused(f"{where}: is not a JSON object", _FIX)
    return value


def read_canonical(data: bytes, where: str, largest: int) -> dict[str, Any]:
    """As ``read``, but refuses any form except that of ``digest.canonical_json``."""
    value = read(data, where, largest)
    if canonical_json(value) != data:
        raise EvidenceRefused(f"{where}: is not in canonical form", _FIX)
    return value


class _TwiceError(ValueError):
    """A key occurs twice in one object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _TwiceError(key[:40])
        values[key] = value
    return values


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
