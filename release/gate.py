"""gate: hold the verdict to the evidence it is about, and the evidence to the gates, once more."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from checks import chain, files, gates, layout, params_file, plugins, scoring
from checks.chain import Evidence
from checks.errors import EvidenceRefused, ParamsRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.params import Params
from checks.verdict import Verdict
from release import record, references

# DVC does not know the packages of users, so that `dvc repro` alone would run nothing.
_AGAIN = "install the package, or run `dvc repro --force --single-item evaluate gate`, then ask again"


class Held(NamedTuple):
    """A verdict that holds, with the parameters and the evidence it was held to."""

    params: Params
    evidence: Evidence
    verdict: Verdict


def gate(root: Path) -> Verdict:
    """Return the verdict in ``root`` if it still holds; raise as ``hold`` does."""
    return hold(root).verdict


def hold(root: Path, target: str | None = None, trusting: Collection[Path] = ()) -> Held:
    """Return the verdict in ``root``, and what it is about, if it still holds.

    Everything that the verdict judged is hashed again, weights included; dvc.lock must say that every stage ran with
    these parameters, modules and reports; the earlier models are looked up in git again, and every gate of
    params.yaml is asked again. ``target`` is the branch that this one is held against; None: as ``commits.target``
    finds it. Judged paths in ``trusting`` are not hashed here: the caller does, or needs only what the reports say of
    them. Raises EvidenceRefused, listing every mismatch, when the verdict is void: something it judged differs or
    is gone, a package that a kind came from has other code or is gone, or the gates now answer otherwise.
    """
    try:
        params = params_file.load(root / layout.PARAMS)
    except ParamsRefused as refused:  # a kind whose package is gone is an unknown kind
        if lines := _packages(root):
            raise EvidenceRefused(f"the verdict is void: {lines[0]}", _AGAIN, (*lines[1:], str(refused))) from refused
        raise
    stored = files.read_json(root / layout.VERDICT, Verdict)
    trusted = {path.as_posix() for path in trusting}
    differences = chain.compare(root, {name: value for name, value in stored.judged.items() if name not in trusted})
    if stored.policy != gates.policy_digest(params.gates):
        differences.append(f"{layout.PARAMS}: the gates are not those of the verdict")
    differences += (packages := plugins.differences(stored.plugins))
    differences += record.differences(root)
    differences += references.current(root, target)
    evidence = chain.gather(root, scoring.digest_of(params.evaluate.scorers))
    again = gates.judge(params, evidence)
    if again != stored and not differences:
        before = {finding.gate: finding for finding in stored.findings}
        differences = [
            f"gate {finding.gate}: answers {finding.status} ({finding.reason}), not as {layout.VERDICT} says"
            for finding in again.findings
            if before.get(finding.gate) != finding
        ] or [f"{layout.VERDICT}: is not what the gates make of the evidence"]
    if differences:
        first, *others = differences
        todo = _AGAIN if packages else "run `dvc repro`, then ask again"
        raise EvidenceRefused(f"the verdict is void: {first}", todo, tuple(others))
    return Held(params, evidence, stored)


def _packages(root: Path) -> list[str]:
    """Where the installed packages are not those of the verdict in ``root``; nothing when it cannot be read."""
    try:
        return plugins.differences(files.read_json(root / layout.VERDICT, Verdict).plugins)
    except EvidenceRefused:
        return []


def refusal(verdict: Verdict) -> Refusal | None:
    """What a verdict other than ``pass`` raises; None for ``pass``."""
    if verdict.status == "pass":
        return None
    undone = [f.gate for f in verdict.findings if f.status == verdict.status]
    kind = VerdictFailed if verdict.status == "fail" else VerdictInconclusive
    what = f"verdict {verdict.status}: {', '.join(undone) or 'no gate was asked'}"
    return kind(what, f"read the reasons in {layout.VERDICT}, change params.yaml or the data, and run `dvc repro`")
