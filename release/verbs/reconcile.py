"""reconcile: compares git with everything that mirrors it; with ``fix`` updates the mirrors from git, never git.

Compared are environments and tags in git, MLflow's registered model, images and evidence in their registry, and the
cluster, if kubectl has one. A mirror that cannot be queried makes the command fail.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.config.params import Params
from checks.formats.quarantine import Entries
from checks.process.errors import Drifted, Refusal
from checks.process.text import redact
from checks.records.rows import Record
from release.ledger import DEADLINE, Ledger, released_pointers
from release.mirrors import cluster, compare, desired, mlflow, mlflow_client, registry, tags
from release.mirrors.types import MirrorFinding, MirrorUnavailable
from release.promotion import emergency, quarantined, rollback_targets

_MLFLOW = 120.0  # seconds: a new store is made, or a thousand versions


class Reconciled(Record):
    """The findings as of the commit ``tip`` of ``branch``. ``skipped``: mirrors that are not set up here, and why."""

    branch: str
    tip: str
    findings: tuple[MirrorFinding, ...]
    skipped: tuple[str, ...]

    @property
    def left(self) -> tuple[MirrorFinding, ...]:
        """The findings that were not fixed."""
        return tuple(finding for finding in self.findings if not finding.fixed)


def reconcile(root: Path, fix: bool = False) -> Reconciled:
    """Compare git with its mirrors; with ``fix`` update the mirrors from git.

    Raises RemoteRefused if git's own remote does not answer, EvidenceRefused if its history is not valid. What is wrong
    with a mirror is a finding.
    """
    records, ledger, tip, environments = desired.read(root)
    params = records.work_tree.params
    released = {name: environment.released for name, environment in environments.items()}
    standings = emergency.here(records, ledger, tip, params.promote, released)
    known_bad = quarantined.here(root, ledger, tip, params.promote)
    findings = [
        *(finding for state in environments.values() for finding in state.findings),
        *(
            finding
            for name, standing in standings.items()
            for finding in desired.lapsed(name, standing.problem, standing.todo)
        ),
        *(
            MirrorFinding(
                where="environments", what="quarantine", git="entries that were not released", mirror=what,
                severity="drift", todo=todo,
            )
            for what, todo in quarantined.contradictions(known_bad)
        ),
        *tags.check(ledger, tip, ledger.model_name(params.serve.name), params.promote.ordered, fix),
    ]  # fmt: skip
    known = released_pointers.releases(ledger, tip, params.promote.ordered)
    skipped, store = [], mlflow.address(root, params)
    if mlflow_client.is_absent(store) and not fix:
        skipped.append(f"MLflow: {redact(store)} does not exist; --fix creates it")
    else:
        findings += _mlflow(root, params, store, known, environments, fix)
    images = _images(ledger, tip, known, environments, known_bad.entries)
    findings += registry.check(root, images, fix)
    kubectl = cluster.current()
    if isinstance(kubectl, str):
        skipped.append(f"cluster: {kubectl}")
    else:
        findings += [
            finding for state in environments.values() for finding in cluster.check(kubectl, state)
        ]
    return Reconciled(
        branch=ledger.shown, tip=tip, findings=tuple(findings), skipped=tuple(skipped)
    )


def refusal(reconciled: Reconciled) -> Refusal | None:
    """The refusal if a finding was not fixed or a mirror did not answer; None otherwise."""
    left = reconciled.left
    if not left:
        return None
    drift = sum(finding.severity == "drift" for finding in left)
    silent = len(left) - drift
    parts = [f"{drift} drifted from git"] if drift else []
    parts += [f"{silent} could not be reached"] if silent else []
    todo = (
        "`lockstep reconcile --fix`"
        if any(finding.fix for finding in left)
        else "follow the fix beside each"
    )
    return Drifted(f"mirrors of {reconciled.branch}: {', '.join(parts)}", todo)


def _mlflow(
    root: Path,
    params: Params,
    store: str,
    known: released_pointers.Released,
    environments: Mapping[str, desired.Desired],
    fix: bool,
) -> list[MirrorFinding]:
    runs = released_pointers.runs(root, [pointer.commit for pointer, _ in known.values()], DEADLINE)
    releases = [
        mlflow.version(pointer, envelope.statement if envelope else None, runs.get(pointer.commit))
        for pointer, envelope in known.values()
    ]
    # If a pointer cannot be read, the right place of its alias is unknown, so it is left alone.
    pointers = {
        name: state.pointer
        for name, state in environments.items()
        if state.pointer or not state.findings
    }
    name, aliases = mlflow.model_name(root, params), mlflow.aliases(pointers)
    wanted = compare.WantedModel(name=name, releases=tuple(releases), aliases=aliases, whole=True)
    try:
        return mlflow.ask(store, wanted, fix, _MLFLOW)
    except MirrorUnavailable as silent:
        return [MirrorFinding(
            where="MLflow", what=redact(store), git=f"{len(releases)} versions, {len(wanted.aliases)} aliases",
            mirror=str(silent), severity="unreachable", todo="start it, or set MLFLOW_TRACKING_URI or tracking.uri",
        )]  # fmt: skip


def _images(
    ledger: Ledger,
    tip: str,
    known: released_pointers.Released,
    environments: Mapping[str, desired.Desired],
    known_bad: Entries,
) -> list[registry.Image]:
    """The images that run, and for each environment the one that a rollback would return to."""
    images = [
        registry.Image(state.pointer, state.envelope, f"{name} runs it")
        for name, state in environments.items()
        if state.pointer
    ]
    for name, state in environments.items():
        earlier = rollback_targets.earlier(ledger.moves(tip, name), state.pointer, known_bad)
        if state.pointer and earlier:
            back = earlier[0].pointer
            images.append(
                registry.Image(back, known[back.image][1], f"a rollback of {name} goes to it")
            )
    return list({image.pointer.image: image for image in reversed(images)}.values())[::-1]
