"""Whether dvc.lock is a record of what lies here: of these parameters, this code, these reports."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from checks import layout, params_file, plain_yaml
from checks.errors import EvidenceRefused

_MODULE = ".py"

# What each stage reads of params.yaml. Written out, so that a thinner dvc.yaml does not ask for less; a test holds
# it to dvc.yaml.
READS = {
    "fetch": ("base", "data"),
    "prepare": ("prepare",),
    "validate": ("validate", "prepare"),
    "train": ("train",),
    "merge": ("merge",),
    "evaluate": ("evaluate",),
    "probe": ("serve.probes", "serve.dtype", "serve.max_input_tokens"),
    "gate": ("gates", "evaluate.scorers", "base.license", "data.license"),
}


def differences(root: Path, stages: Collection[str] = tuple(READS)) -> list[str]:
    """One line for each parameter, module or report that one of ``stages`` did not run with as it is now.

    Outputs that DVC caches are held by the verdict's own digests, but for the probes, which it does not judge. Raises
    ParamsRefused when params.yaml cannot be read.
    """
    said = params_file.document(root / layout.PARAMS)
    try:
        lock = _mapping(_mapping(plain_yaml.load((root / layout.LOCK).read_text(encoding="utf-8"))).get("stages"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        return [f"{layout.LOCK}: no record of this pipeline: {reason}"]
    found = []
    for name, keys in READS.items():
        if name not in stages:
            continue
        if not isinstance(ran := lock.get(name), dict):
            found.append(f"{layout.LOCK}: has no record of {name}")
            continue
        recorded = _mapping(_mapping(ran.get("params")).get(layout.PARAMS.as_posix()))
        for key in keys:
            if key not in recorded:
                found.append(f"{layout.LOCK}: {name} ran without {key}")
            elif _at(said, key) != recorded[key]:
                found.append(f"{layout.PARAMS}: {key} is not what {name} ran with")
        found += _changed(root, name, ran)
    return list(dict.fromkeys(found))


def modules(lock: bytes) -> dict[Path, str]:
    """The modules that the stages ran, and the MD5 of each, by a dvc.lock. Raises EvidenceRefused when it is none."""
    try:
        stages = _mapping(_mapping(plain_yaml.load(lock.decode())).get("stages")).values()
    except (ValueError, yaml.YAMLError) as error:
        raise EvidenceRefused(f"{layout.LOCK}: is not YAML", "run `lockstep run`, or restore it from git") from error
    deps = [_mapping(dep) for ran in stages for dep in _list(_mapping(ran).get("deps"))]
    named = {str(dep.get("path", "")): str(dep.get("md5")) for dep in deps}
    return {Path(path): md5 for path, md5 in sorted(named.items()) if path.endswith(_MODULE)}


def _changed(root: Path, stage: str, ran: dict[str, Any]) -> list[str]:
    """Modules, reports and probes that are not what the stage read and wrote."""
    found = []
    for entry in (*_list(ran.get("deps")), *_list(ran.get("outs"))):
        path, expected = str(_mapping(entry).get("path", "")), _mapping(entry).get("md5")
        if not path.endswith(_MODULE) and not path.startswith((f"{layout.REPORTS}/", layout.PROBES.as_posix())):
            continue
        if str(expected).endswith(".dir"):
            continue
        try:
            if path.startswith("/") or ".." in Path(path).parts:
                raise ValueError("a way out of the repository, which no stage takes")
            now = hashlib.md5((root / path).read_bytes(), usedforsecurity=False).hexdigest()  # as DVC names files
        except (OSError, ValueError):
            now = None
        if now != expected:
            found.append(f"{path}: is not what {layout.LOCK} says of {stage}")
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(document: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for part in path.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document
