"""The licence that a source declares, as it is spelled there, read from the verified bytes only.

A wheel declares it in its metadata: ``License-Expression`` (PEP 639), else ``License``, else its only licence
classifier. A folder declares it in ``README.md``, the model hubs' card: ``license``, or ``license_name`` if that is
``other``. A single file declares nothing, and neither does a part of a hub's repository, which has no card. The text of
a licence is not read. The gate of kind ``license`` compares the declaration with params.yaml.
"""

import zipfile
import zlib
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

import yaml

from stages.sources import Verified

_LONGEST = 200  # characters of a name; a longer text is the licence itself
_CLASSIFIER = "License ::"


def license_of(source: Verified) -> str | None:
    """Return the declared licence as it is spelled; None if there is none that can be read."""
    if source.inside is not None:
        return _of_wheel(source.path)
    card = source.path / "README.md"
    return _of_card(card) if card.is_file() else None


def _of_wheel(wheel: Path) -> str | None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(
                n
                for n in archive.namelist()
                if n.endswith(".dist-info/METADATA") and n.count("/") == 1
            )
            headers = BytesHeaderParser().parsebytes(archive.read(name))
    except (
        StopIteration,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ):
        return None
    classifiers = [
        value for value in headers.get_all("Classifier", []) if str(value).startswith(_CLASSIFIER)
    ]
    named = _name(headers.get("License"))
    return (
        _name(headers.get("License-Expression"))
        or (named if named != "UNKNOWN" else None)  # setuptools' word for an empty field
        or _name(", ".join(str(value) for value in classifiers))
    )


def _of_card(card: Path) -> str | None:
    from huggingface_hub import metadata_load

    try:
        stated: dict[str, Any] = metadata_load(card) or {}
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that no calendar has
        return None
    stated_license = stated.get("license")
    value = (stated_license in ("other", None) and stated.get("license_name")) or stated_license
    return _name(", ".join(str(part) for part in value) if isinstance(value, list) else value)


def _name(value: Any) -> str | None:
    """Return a name on one line; None if empty or if it is a whole text."""
    text = "" if value is None else str(value).strip()
    return text if 0 < len(text) <= _LONGEST and text.isprintable() else None
