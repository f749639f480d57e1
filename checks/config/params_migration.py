"""The params.yaml of an earlier version as this version takes it: moved keys, and defaults that DVC tracks.

Only lines change that this version would refuse. What a person must decide stays, and is refused as before.
"""

from collections.abc import Iterator
from typing import Any

from checks.code import lock
from checks.config import params_edit, params_file
from checks.config.moved_keys import MOVED, Moved
from checks.process.errors import ParamsRefused
from checks.storage import plain_yaml


def migrated(text: str) -> str:
    """Return the text of params.yaml for this version. Raises ParamsRefused if it is not a YAML mapping."""
    for moved in MOVED:
        for section in _sections(params_file.read_text(text, "params.yaml").value, moved):
            text = _moved(text, section, moved)
    try:
        params = params_file.parse(text)
    except ParamsRefused:
        return text
    for path, value in lock.left_out(params).items():
        section, _, key = path.rpartition(".")
        text = params_edit.with_key(text, section, f"{key}: {plain_yaml.inline(value)}") or text
    return text


def _sections(document: dict[str, Any], moved: Moved) -> Iterator[str]:
    """Yield the path of each section that has the key."""
    above, _, name = moved.section.rpartition(".")
    sections = lock.value_at(document, above)
    for part in sections if name == "*" and isinstance(sections, dict) else [name]:
        section = lock.value_at(sections, str(part))
        if (
            isinstance(section, dict)
            and moved.key in section
            and moved.kind in (None, section.get("kind"))
        ):
            yield f"{above}.{part}"


def _moved(text: str, section: str, moved: Moved) -> str:
    """Return the text with a key at its place of today; the same text if a person must move it."""
    done = params_edit.without_key(text, section, moved.key)
    if done is None:
        return text
    rest, line = done
    if moved.to is None:
        return rest
    there = lock.value_at(params_file.read_text(text, "params.yaml").value, moved.to)
    if isinstance(there, dict) and moved.key in there:
        return text
    return params_edit.with_key(rest, moved.to, line) or text
