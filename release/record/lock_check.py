"""Checks dvc.lock against this pipeline, these parameters, this code and these reports."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from checks.code import lock as code_lock
from checks.decision import policy
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.record import folder_lists, pipeline_lock
from release.record.records import Commit, WorkTree

_MAKING = ("fetch", "prepare", "validate", "train", "merge")  # the stages that decide the model
_IN_GIT = (f"{layout.REPORTS}/", layout.CODE_LOCK.as_posix())
_CHECKED = (*_IN_GIT, layout.PROBES.as_posix())


def differences(
    tree: WorkTree, stages: Collection[str] = (), trusting: Collection[str] = ()
) -> list[str]:
    """Return one line for each difference between dvc.lock and dvc.yaml, the parameters, code, reports and lists.

    Of the stages ``stages`` only, if given. The contents of outputs in DVC's cache are checked by the verdict's own
    digests, except the probes, which the verdict does not judge; here, folders are compared with their lists. Those in
    ``trusting`` are not read. Raises ParamsRefused if params.yaml cannot be read.
    """
    try:
        pipeline, lock = (_only(document, stages) for document in (tree.pipeline, tree.lock))
    except EvidenceRefused as refused:
        return [refused.what]
    reads = {
        name: keys for name, keys in pipeline_lock.READS.items() if not stages or name in stages
    }
    differing = [
        *pipeline_lock.incomplete(pipeline, lock, reads),
        *pipeline_lock.otherwise(tree.document, lock),
        *other_code(tree, lock),
        *(line for name, ran in lock.items() for line in _changed(tree.root, name, ran, trusting)),
    ]
    return list(dict.fromkeys(differing))


def of_commit(tree: WorkTree, commit: Commit) -> dict[str, list[str]]:
    """Return for each stage how a commit's record differs from the pipeline, parameters and code of the work tree.

    What contradicts another stage is listed with the later one. Outputs that DVC caches are not compared: they need not
    be here. Raises EvidenceRefused if dvc.yaml, or the dvc.lock of the commit, cannot be read, and as ``differences``.
    """
    lock = commit.lock(f"{layout.LOCK} at {commit.name[:12]}")
    differing = dict[str, list[str]]()
    seen = list[str]()
    for name in dict.fromkeys((*tree.pipeline, *lock)):
        seen.append(name)
        pipeline, ran = (_only(document, seen) for document in (tree.pipeline, lock))
        reads = {name: keys for name, keys in pipeline_lock.READS.items() if name in seen}
        lines = [
            *pipeline_lock.incomplete(pipeline, ran, reads),
            *pipeline_lock.otherwise(tree.document, ran),
            *(
                f"{layout.CODE_LOCK}: {stage} ran other code than is here"
                for stage in pipeline_lock.other_code(tree.code, ran)
            ),
            *_other_reports(commit, name, ran.get(name, {})),
        ]
        earlier = {line for listed in differing.values() for line in listed}
        differing[name] = [line for line in dict.fromkeys(lines) if line not in earlier]
    return differing


def other_code(tree: WorkTree, lock: pipeline_lock.Stages) -> list[str]:
    """Return a line for each stage in ``lock`` that ran other code than it would run now. Raises as ``differences``."""
    stages = pipeline_lock.other_code(tree.code, lock)
    return [f"{layout.CODE_LOCK}: {stage} ran other code than is here" for stage in stages]


def other_defaults(tree: WorkTree) -> list[str]:
    """Return a line for each default of policy that code.lock has otherwise than this version. Raises ParamsRefused."""
    here = policy.defaults(tree.params)
    try:
        recorded = code_lock.read(tree.root).defaults
    except EvidenceRefused as refused:
        return [refused.what]
    if recorded is None:
        return [f"{layout.CODE_LOCK}: does not say the defaults of policy"]
    differing = [path for path, value in here.items() if recorded.get(path, "") != value]
    # What params.yaml began to write since is no default, and its old default decides nothing.
    differing += [
        path for path in sorted(recorded.keys() - here) if not policy.has(tree.params, path)
    ]
    return [f"{layout.CODE_LOCK}: {path}: is not the default of this version" for path in differing]


def makes_another_model(tree: WorkTree) -> bool:
    """Tell whether the pipeline would make another model. A changed gate, scorer or server makes none."""
    return bool(differences(tree, _MAKING))


def _only(locked: pipeline_lock.Stages, names: Collection[str]) -> pipeline_lock.Stages:
    return {name: stage for name, stage in locked.items() if name in names} if names else locked


def _other_reports(commit: Commit, stage: str, ran: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each report and code.lock that a commit has otherwise than its dvc.lock says of a stage."""
    for path, expected in pipeline_lock.files(ran):
        if not path.startswith(_IN_GIT) or expected.endswith(".dir"):
            continue
        data = None if ".." in Path(path).parts else commit.data(Path(path))
        if data is None or folder_lists.md5_of(data) != expected:
            yield f"{path}: is not what {layout.LOCK} says of {stage}"


def _changed(
    root: Path, stage: str, ran: Mapping[str, Any], trusting: Collection[str]
) -> list[str]:
    """Return a line for each report, probe and list that differs from what the stage read and wrote."""
    changed = list[str]()
    outputs = {path for path, _ in pipeline_lock.files(ran, ("outs",))}
    for path, expected in pipeline_lock.files(ran):
        if path in outputs and expected.endswith(".dir") and ".." not in Path(path).parts:
            changed += folder_lists.differences(root, stage, path, expected, path not in trusting)
            continue
        if not path.startswith(_CHECKED) or expected.endswith(".dir"):
            continue
        try:
            if ".." in Path(path).parts:
                raise ValueError("a way out of the repository, which no stage takes")
            now = folder_lists.md5_of((root / path).read_bytes())
        except (OSError, ValueError):
            now = None
        if now != expected and path == layout.PROBES.as_posix() and not (root / path).exists():
            changed.append(f"{path}: is missing here: `./lockstep dvc pull {path}` fetches it")
        elif now != expected:
            changed.append(f"{path}: is not what {layout.LOCK} says of {stage}")
    return changed
