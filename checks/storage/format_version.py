"""Refuses evidence of a later format in one line that names the remedy."""

import re

from pydantic import ValidationError

from checks.process.errors import EvidenceRefused

# Where a record, and a signed statement, say their format.
_FORMATS = (("schema_version",), ("predicateType",))
_FORMAT = re.compile(r"(.*?)([0-9]{1,9})", re.DOTALL)


def refuse_newer(where: str, error: ValidationError) -> None:
    """Raise EvidenceRefused if a newer Lockstep wrote the evidence, by the format that it names."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "literal_error" and detail["loc"][-1:] in _FORMATS:
            refuse_format(where, str(detail["input"]), detail["ctx"]["expected"].strip("'"))


def refuse_format(where: str, given: str, known: str) -> None:
    """Raise EvidenceRefused if the format ``given`` is a later one than ``known``, by the number that ends both."""
    names = [_FORMAT.fullmatch(name) for name in (given, known)]
    (name, number), (known_name, known_number) = (
        match.groups() if match else ("", "0") for match in names
    )
    if name == known_name and int(number) > int(known_number):
        raise EvidenceRefused(
            f"{where}: has the format {given}, which a newer Lockstep reads: `lockstep upgrade`",
            "move to that version, then run this again",
        )
