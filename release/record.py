"""Whether dvc.lock is a record of these parameters: every stage must have run with what params.yaml says now."""

from pathlib import Path
from typing import Any

import yaml

from checks import layout, params_file


def differences(root: Path) -> list[str]:
    """One line for each parameter that a stage ran without, and for each stage that left no record.

    dvc.yaml says which parameters a stage reads. Raises ParamsRefused when params.yaml cannot be read.
    """
    said = params_file.document(root / layout.PARAMS)
    try:
        stages, lock = (_stages(root / path) for path in (layout.PIPELINE, layout.LOCK))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        return [f"{layout.LOCK}: no record of this pipeline: {_reason(error)}"]
    found = []
    for name, stage in stages.items():
        if not isinstance(ran := lock.get(name), dict):
            found.append(f"{layout.LOCK}: has no record of {name}")
            continue
        recorded = _mapping(_mapping(ran.get("params")).get(layout.PARAMS.as_posix()))
        for key in _list(_mapping(stage).get("params")):
            if key not in recorded:
                found.append(f"{layout.LOCK}: {name} ran without {key}")
            elif _at(said, str(key)) != recorded[key]:
                found.append(f"{layout.PARAMS}: {key} is not what {name} ran with")
    return found


def _stages(path: Path) -> dict[str, Any]:
    value = _mapping(yaml.load(path.read_text(encoding="utf-8"), Loader=params_file.Loader))  # noqa: S506 - safe
    stages = value.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise ValueError(f"{path.name} names no stages")
    return stages


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(document: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def _reason(error: Exception) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else str(error).splitlines()[0]
