"""Refuses evidence that does not fit its model."""

from pydantic import ValidationError

from checks.process.errors import EvidenceRefused
from checks.storage import format_version
from checks.storage.files import first


def unfit(where: str, error: ValidationError, todo: str) -> EvidenceRefused:
    """Return the refusal of evidence by its first problem, with ``todo``. Raises as ``format_version.refuse_newer``."""
    format_version.refuse_newer(where, error)
    return EvidenceRefused(f"{where}: {first(error)}", todo)
