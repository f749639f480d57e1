"""The params.yaml of an earlier version as this version takes it: moved keys, and defaults that DVC tracks.

Only lines change that this version refuses. What a person must decide stays, and is refused as before.
"""

import re

from checks.code import lock
from checks.config import params_edit, params_file
from checks.config.moved_keys import IS_MOVED, MOVED
from checks.process.errors import ParamsRefused
from checks.storage import plain_yaml

_PLACE = re.compile(rf": (\S+)\.(\w+): {IS_MOVED};")


def migrated(text: str) -> str:
    """Return the text of params.yaml for this version. Raises MachineRefused for a kind that cannot be used."""
    try:
        params = params_file.parse(text)
    except ParamsRefused as refused:
        moved = text
        for section, key in _PLACE.findall("\n".join((str(refused), *refused.others))):
            moved = _moved(moved, section, key)
        return text if moved == text else migrated(moved)
    for path, value in lock.left_out(params).items():
        section, _, key = path.rpartition(".")
        text = params_edit.with_key(text, section, f"{key}: {plain_yaml.inline(value)}") or text
    return text


def _moved(text: str, section: str, key: str) -> str:
    """Return the text with a key in its section of today; the same text if a person must move it."""
    done, to = params_edit.without_key(text, section, key), MOVED[key].to
    if done is None or to is None:
        return done[0] if done else text
    if lock.value_at(params_file.read_text(text, "it").value, f"{to}.{key}") is not None:
        return text
    return params_edit.with_key(done[0], to, done[1]) or text
