"""The state that environments should have, from the commit that holds them, and contradictions within that commit.

Only git is read: `status` reports the contradictions, and mirrors are compared with the state.

Whether signers who may signed for the releases there, and how these were verified, is read from git too.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from checks.config import params_file
from checks.config.release_params import Promote
from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused, MachineRefused, ParamsRefused, Refusal
from checks.storage import layout
from release.evidence import freshness, trust, verification
from release.ledger import Ledger, Move, released_pointers
from release.mirrors.types import MirrorFinding
from release.overlay import edits, environment_file, overlays, scaling
from release.record.records import Records
from release.serving import shared_server
from release.serving.shared_server import AdapterRelease, ListedAdapter, OnServer, SharedServer

_AGAIN = "restore it from git's history, or promote again"


class Verified(NamedTuple):
    """``otherwise``: how the verification differs from how it is served. ``findings``: what the policy forbids.

    ``unfit``: why the policy forbids the release that the environment before runs, as it was verified.
    """

    otherwise: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    findings: tuple[MirrorFinding, ...] = ()


class Desired(NamedTuple):
    """``files``: those that a promotion writes for a cluster; None if they cannot be computed.

    No finding are ``older``, a line if a cluster runs shared folders of an earlier version of Lockstep; ``stuck``, why
    an update could not end; and ``gap``, for how long no server answers during an update. ``adapters``: all that the
    server has, its own first, if the environment lists others; ``server``: the projects that list this adapter.
    """

    environment: str
    pointer: Pointer | None
    envelope: released_pointers.Envelope | None
    files: Mapping[Path, bytes] | None
    namespace: str | None  # The namespace in environment.yaml.
    findings: tuple[MirrorFinding, ...]
    older: str = ""
    stuck: tuple[str, ...] = ()
    gap: str = ""
    adapters: tuple[OnServer, ...] = ()
    server: tuple[Path, ...] = ()

    @property
    def released(self) -> tuple[Pointer, released_pointers.Envelope] | None:
        """The pointer and its evidence; None if the environment runs nothing, or if one of them cannot be read."""
        return (self.pointer, self.envelope) if self.pointer and self.envelope else None


def read(root: Path) -> tuple[Records, Ledger, str, dict[str, Desired]]:
    """Return the records of the clone, its ledger, the tip of that, and the environments at the tip.

    Raises RemoteRefused when the remote does not answer or a checkpoint contradicts it, EvidenceRefused when the
    history cannot be believed.
    """
    records = Records(root)
    promote = records.work_tree.release_params.promote
    ledger = Ledger.open(root, promote)
    tip, names = freshness.tip(root, ledger, promote), promote.ordered
    try:
        files = ledger.files(tip, layout.ENVIRONMENTS)
    except EvidenceRefused as refused:
        return records, ledger, tip, {name: _unreadable(name, "files", refused) for name in names}
    environments = {}
    for name in names:
        monitoring = partial(_monitoring, name, records, ledger, tip)
        environment = _environment(name, files, records, monitoring)
        environment = environment._replace(
            older=edits.older(name, files),
            stuck=tuple(edits.stuck(name, files, environment.files)),
            gap=_gap(environment, files),
        )
        shared = shared_server.of_environment(records, ledger, tip, name, files)
        environments[name] = _on_one_server(environment, shared) if shared else environment
    return records, ledger, tip, environments


def _on_one_server(environment: Desired, shared: SharedServer) -> Desired:
    """Add the adapters that share a server, and why it cannot take them. Its Deployment has them all."""
    own = shared.own
    is_host = bool(shared.guests(own))
    name = environment.environment
    listed = tuple[ListedAdapter, ...]()
    problems = list[tuple[str, str]]()
    moving: AdapterRelease | None = None
    try:
        listed = shared.adapters_of(own)
        if environment.pointer is not None:
            moving = shared.moving(environment.pointer)
            problems += (
                shared_server.of_server(shared, moving, shared.patch(own))
                if is_host
                else shared_server.of_adapter(shared, moving, as_verified=False)
            )
    except (EvidenceRefused, ParamsRefused) as refused:
        problems.append((refused.what, refused.todo))
    findings = [drift(name, "adapters", "fit on one server", *problem) for problem in problems]
    environment = environment._replace(findings=(*environment.findings, *findings))
    if not is_host:
        # Another project's Deployment runs it, and is compared there.
        return environment._replace(files=None, server=shared.listing())
    releases = [(own, moving), *((adapter.project, adapter.release) for adapter in listed)]
    components = [adapter.release.component for adapter in listed if adapter.release]
    whole = environment.files and overlays.joined(name, environment.files, components)
    adapters = tuple(shared_server.on_server(*release) for release in releases)
    return environment._replace(files=whole, adapters=adapters)


def drift(environment: str, what: str, git: str, mirror: str, todo: str = _AGAIN) -> MirrorFinding:
    """Return a finding about files in git that only a promotion may write."""
    return MirrorFinding(
        where="environments",
        what=f"{environment}: {what}",
        git=git,
        mirror=mirror,
        severity="drift",
        todo=todo,
    )


def _gap(environment: Desired, files: Mapping[Path, bytes]) -> str:
    if environment.pointer is None or environment.envelope is None or environment.files is None:
        return ""
    report = environment.envelope.statement.predicate.serving
    return scaling.gap(environment.environment, environment.pointer, report, files)


def lapsed(name: str, problem: str, todo: str) -> list[MirrorFinding]:
    """Return why the release may not run there, if its verdict is not ``pass`` and no exception holds."""
    return [drift(name, "verdict", "pass, or an exception", problem, todo)] if problem else []


def last_move(name: str, moves: tuple[Move, ...]) -> list[MirrorFinding]:
    """Return what is wrong with the last move, which decides what runs."""
    if not moves or not moves[0].problem or moves[0].after is None:
        return []  # A pointer that cannot be read is a finding already.
    return [drift(name, f"move {moves[0].number}", "what its commit did", moves[0].problem)]


def _environment(
    name: str,
    files: Mapping[Path, bytes],
    records: Records,
    monitoring: Callable[[], Sequence[edits.Files]],
) -> Desired:
    home = layout.ENVIRONMENTS / name
    spaced = environment_file.namespace(name, files)
    text = files.get(home / layout.POINTER)
    if text is None:
        is_adapter = overlays.uses(name, files, overlays.ADAPTER)
        wanted = overlays.nothing(name, adapter=is_adapter)
        there = any(home / overlays.FOLDER in path.parents for path in files)
        failures = [
            drift(name, "release", "nothing runs", failure)
            for failure in overlays.check(name, files, wanted)
            if there
        ]
        return Desired(name, None, None, wanted, spaced, tuple(failures))
    try:
        released = pointer.parse(text, str(home / layout.POINTER))
    except EvidenceRefused as refused:
        return _unreadable(name, "pointer", refused)
    evidence_path = released_pointers.path(name)
    try:
        envelope = released_pointers.envelope(
            files.get(evidence_path), released, str(evidence_path)
        )
    except EvidenceRefused as refused:
        return Desired(
            name,
            released,
            None,
            None,
            spaced,
            (drift(name, "evidence", released.evidence, refused.what),),
        )
    built = envelope.statement.predicate.image
    try:
        wanted = overlays.render(
            name,
            released,
            built,
            records.at(built.commit).runtime(built.runtime),
            records.at(released.commit).serve,
        )
    except Refusal as refused:
        return Desired(
            name,
            released,
            envelope,
            None,
            spaced,
            (drift(name, "release", "is a release", refused.what),),
        )
    failures = [
        drift(name, "release", "as a promotion writes it", failure)
        for failure in overlays.check(name, files, wanted)
    ]
    failures += [
        drift(name, "overlay", "leaves the release as it is", failure)
        for failure in edits.failures(name, files, wanted, monitoring)
        if failure not in (edits.older(name, files), *edits.stuck(name, files, wanted))
    ]
    return Desired(name, released, envelope, wanted, spaced, tuple(failures))


def _monitoring(
    name: str, records: Records, ledger: Ledger, tip: str
) -> Sequence[Mapping[Path, bytes | None]]:
    """Return what the component monitoring may be: what the section monitor gives at the tip, or in the work tree.

    A branch that changes the section, or is behind the tip, is no drift. A section that cannot be rules gives nothing.
    """
    from release.monitoring import component
    from release.monitoring.objectives import Scope

    given = [records.work_tree.release_params]
    with contextlib.suppress(EvidenceRefused, ParamsRefused):
        at_tip = ledger.read(tip, layout.PARAMS)
        if at_tip is not None:
            parsed = params_file.read_text(at_tip.decode(errors="replace"), str(layout.PARAMS))
            given.insert(0, params_file.check_release(parsed))
    versions = list[Mapping[Path, bytes | None]]()
    for params in given:
        with contextlib.suppress(ParamsRefused):
            metrics = records.at(tip).runtime(params.serve.runtime).metrics
            versions.append(
                component.committed(Scope(params.serve.name, name), params.monitor, metrics)
            )
    return versions


def _unreadable(name: str, what: str, refused: EvidenceRefused) -> Desired:
    return Desired(
        name, None, None, None, None, (drift(name, what, "cannot be read", refused.what),)
    )


def verifications(
    root: Path, ledger: Ledger, tip: str, promote: Promote, environments: Mapping[str, Desired]
) -> dict[str, Verified]:
    """Return the verification of each environment at ``tip``; empty if it runs nothing or cannot be read.

    Signers are those of the target branch as this clone has it, now or when the release moved. No network is used.
    """
    verified = dict.fromkeys(environments, Verified())
    released = {
        name: state.released for name, state in environments.items() if state.released is not None
    }
    if not released:
        return verified
    try:
        known = trust.known(root)
    except EvidenceRefused as refused:
        unsigned = {
            name: Verified(findings=(_unsigned(name, "evidence", refused),)) for name in released
        }
        return verified | unsigned
    files = ledger.files(tip, layout.ENVIRONMENTS)
    for name, (runs, envelope) in released.items():
        release = envelope.statement.predicate
        path = str(released_pointers.path(name))
        at = ledger.recorded(tip, name, runs)
        lines = verification.unlike_serving(release, name, files)
        signed = partial(trust.verify, envelope.data, known, "release", path, offline=True, at=at)
        findings = _refused(name, "evidence", signed)
        if release.image.image != runs.digest:
            about, actual = f"about {runs.digest}", f"is about {release.image.image}"
            findings.append(drift(name, "evidence", about, actual))
        if promote.environments[name].served_as_verified:
            findings += [drift(name, "verification", "of what serves", line) for line in lines]
        if release.verification is not None:  # Versions that did not sign it moved others.
            findings += _refused(
                name,
                "verification",
                partial(verification.check_verifier, release, known, offline=True, at=at),
            )
        verified[name] = Verified(tuple(lines), (), tuple(findings))
    for name, rule in promote.environments.items():
        if rule.served_as_verified and rule.after in released:
            release = released[rule.after][1].statement.predicate
            unfit = verification.unlike_serving(release, name, files)
            verified[name] = verified[name]._replace(unfit=tuple(unfit))
    return verified


def _refused(name: str, what: str, verify: Callable[[], object]) -> list[MirrorFinding]:
    """Return a finding if ``verify`` refuses."""
    try:
        verify()
    except (EvidenceRefused, MachineRefused) as refused:
        return [_unsigned(name, what, refused)]
    return []


def _unsigned(name: str, what: str, refused: Refusal) -> MirrorFinding:
    return drift(name, what, "signed by one who may", refused.what)
