"""Checks that dvc.lock has every stage of dvc.yaml with its command, dependencies, outputs and parameters.

DVC decides from both files what to run. Here they are compared without DVC, to detect a lock that was edited by hand:
one without a dependency would name no code, so that no code would be checked.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from checks.code import lock as code_lock
from checks.process.errors import EvidenceRefused
from checks.storage import layout, plain_yaml

Stages = Mapping[str, Mapping[str, Any]]

READS = {name: keys for name, keys in code_lock.READS.items() if name != "score"}
"""The keys of params.yaml that each stage reads, without ``score``: it decides nothing."""
_PARAMS, _CODE = layout.PARAMS.as_posix(), layout.CODE_LOCK.as_posix()
_OUTS = ("outs", "metrics", "plots")  # Lists of dvc.yaml; the lock has one list.
_OTHER_WAYS = ("foreach", "matrix", "wdir", "vars")  # to write a stage, which only DVC can resolve
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


class _Stage(NamedTuple):
    """A stage of dvc.yaml: paths, and keys of params.yaml and of code.lock."""

    cmd: Any
    deps: Collection[str]
    outs: Collection[str]
    params: Collection[str]
    code: Collection[str]


def stages(data: bytes, where: str) -> Stages:
    """The stages of a dvc.yaml or dvc.lock. Raises EvidenceRefused if it has none."""
    try:
        document = plain_yaml.load(data.decode())
    except (ValueError, yaml.YAMLError) as error:
        raise EvidenceRefused(
            f"{where}: no record of this pipeline: {str(error).splitlines()[0]}",
            "run `lockstep run`, or restore it from git",
        ) from error
    named = document.get("stages") if isinstance(document, dict) else None
    if not isinstance(named, dict) or not all(isinstance(stage, dict) for stage in named.values()):
        raise EvidenceRefused(
            f"{where}: no record of this pipeline: it has no stages", "restore it from git"
        )
    return {str(name): stage for name, stage in named.items()}


def incomplete(
    pipeline: Stages, lock: Stages, reads: Mapping[str, Collection[str]] = READS
) -> list[str]:
    """One line for each thing that dvc.lock lacks, changes or adds, compared with dvc.yaml.

    ``reads``: the keys of params.yaml that the stages of every Lockstep pipeline read. The values of keys and the
    contents of files are not compared here.
    """
    differing = [
        *(f"{layout.PIPELINE}: has no stage {name}" for name in reads if name not in pipeline),
        *(
            f"{layout.LOCK}: has a stage {name}, and {layout.PIPELINE} has none: remove it there"
            for name in lock
            if name not in pipeline
        ),
    ]
    for name, settings in pipeline.items():
        if way := _way(settings):
            differing.append(
                f"{layout.PIPELINE}: {name}: {way} cannot be compared with {layout.LOCK}: write the stage out"
            )
            continue
        stage = _stage(settings)
        differing += [
            f"{layout.PIPELINE}: {name} does not read {key}"
            for key in reads.get(name, ())
            if key not in stage.params
        ]
        if name in reads and code_lock.key(name) not in stage.code:
            differing.append(
                f"{layout.PIPELINE}: {name} does not depend on its code, {code_lock.key(name)} of {_CODE}"
            )
        if name in lock:
            differing += _unlike(name, stage, lock[name])
        else:
            differing.append(f"{layout.LOCK}: has no record of {name}")
    return [*differing, *_contradictions(lock)]


def left_to_git(pipeline: Stages) -> set[Path]:
    """The outputs that DVC does not cache (``cache: false``), so that git has them. Raises EvidenceRefused."""
    paths = set()
    for name, stage in pipeline.items():
        for entry in (item for kind in _OUTS for item in _list(stage.get(kind))):
            if not isinstance(entry, str | dict):
                raise EvidenceRefused(
                    f"{layout.PIPELINE}: {name}: is not a pipeline", "restore it from git"
                )
            options = entry.items() if isinstance(entry, dict) else ()
            paths |= {
                Path(str(path))
                for path, settings in options
                if _mapping(settings).get("cache") is False
            }
    return paths


def parameters(ran: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys and values of params.yaml that a stage in the lock read."""
    return _mapping(_mapping(ran.get("params")).get(_PARAMS))


def code(ran: Mapping[str, Any], stage: str) -> str | None:
    """The digest of the code that a stage in the lock ran; None if it does not say."""
    recorded = _mapping(_mapping(ran.get("params")).get(_CODE)).get(code_lock.key(stage))
    return recorded if isinstance(recorded, str) else None


def other_code(digests: Mapping[str, str], lock: Stages) -> Iterator[str]:
    """Yield each stage in the lock that ran other code than ``digests`` says."""
    for stage, wanted in digests.items():
        if stage in lock and code(lock[stage], stage) != wanted:
            yield stage


def otherwise(said: Mapping[str, Any], lock: Stages) -> Iterator[str]:
    """One line for each parameter of ``said`` (params.yaml) that a stage did not run with, by the lock."""
    for name, ran in lock.items():
        for key, value in parameters(ran).items():
            if code_lock.value_at(said, str(key)) != value:
                yield f"{layout.PARAMS}: {key} is not what {name} ran with"


def files(
    ran: Mapping[str, Any], kinds: Collection[str] = ("deps", "outs")
) -> Iterator[tuple[str, str]]:
    """Yield path and MD5 of each dependency and output of a stage in the lock."""
    for kind in kinds:
        for entry in _list(ran.get(kind)):
            yield str(_mapping(entry).get("path", "")), str(_mapping(entry).get("md5"))


def _unlike(name: str, stage: _Stage, ran: Mapping[str, Any]) -> Iterator[str]:
    """Where the lock's entry of a stage differs from dvc.yaml."""
    if ran.get("cmd") != stage.cmd:
        yield f"{layout.LOCK}: {name} ran {_short(ran.get('cmd'))}, not {_short(stage.cmd)}"
    for kind, wanted in (("deps", stage.deps), ("outs", stage.outs)):
        entries = [_mapping(entry) for entry in _list(ran.get(kind))]
        paths = [str(entry.get("path", "")) for entry in entries]
        for path in sorted(set(wanted) - set(paths)):
            yield f"{layout.LOCK}: {name} does not have {path} among its {kind}"
        for path in sorted(set(paths) - set(wanted)):
            yield f"{layout.LOCK}: {name} has {_short(path)} among its {kind}, and {layout.PIPELINE} does not"
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            yield f"{layout.LOCK}: {name} has {_short(path)} twice among its {kind}"
        for entry, path in zip(entries, paths, strict=True):
            if entry.get("hash", "md5") != "md5" or not _MD5.fullmatch(str(entry.get("md5"))):
                yield f"{layout.LOCK}: {name} does not say the MD5 of {_short(path)}"
    recorded = parameters(ran)
    for key in stage.params:
        if key not in recorded:
            yield f"{layout.LOCK}: {name} ran without {key}"
    for key in sorted(map(str, recorded.keys() - set(stage.params))):
        yield f"{layout.LOCK}: {name} ran with {_short(key)}, and {layout.PIPELINE} names no such parameter"


def _contradictions(lock: Stages) -> Iterator[str]:
    """A file must have the same content for the stage that wrote it and for all that read it."""
    seen: dict[str, tuple[str, str]] = {}
    for name, ran in lock.items():
        for path, md5 in files(ran):
            before, other = seen.setdefault(path, (md5, name))
            if before != md5:
                yield f"{layout.LOCK}: {_short(path)} of {name} is not the one of {other}"


def _way(said: Mapping[str, Any]) -> str | None:
    """Why a stage of dvc.yaml cannot be compared as it is written."""
    if way := next((way for way in _OTHER_WAYS if way in said), None):
        return way
    return (
        "${…}"
        if "${" in repr({key: value for key, value in said.items() if key != "desc"})
        else None
    )


def _stage(said: Mapping[str, Any]) -> _Stage:
    # Options of an output stand behind its path: {reports/fetch.json: {cache: false}}.
    outs = [entry for kind in _OUTS for entry in _list(said.get(kind))]
    params = [key for key in _list(said.get("params")) if isinstance(key, str)]
    code = list[Any]()
    for other in (item for item in _list(said.get("params")) if isinstance(item, dict)):
        params += _list(other.get(_PARAMS))
        code += _list(other.get(_CODE))
    return _Stage(
        said.get("cmd"),
        _paths(_list(said.get("deps"))),
        _paths(outs),
        [str(key) for key in params],
        [str(key) for key in code],
    )


def _paths(entries: list[Any]) -> list[str]:
    return [
        str(path) for entry in entries for path in (entry if isinstance(entry, dict) else (entry,))
    ]


def _short(value: Any) -> str:
    shown = str(value) if isinstance(value, str) and value.isprintable() else repr(value)
    return shown if len(shown) <= 100 else f"{shown[:99]}…"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
