"""The adapters that share a server with a release: `lockstep verify --beside` loads them, and a promotion compares.

Their bytes come through DVC from the commits that their pointers name, each held to a digest: an adapter to the model
of its pointer, its offline answers to the statement beside that, which a signer of its own project signed.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from checks.formats.serving import LoadedAdapter, Neighbours, ProbeReport
from checks.formats.statement import Release, Statement
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvidenceRefused, ParamsRefused, ServingRefused
from checks.storage import digest, files, layout
from release.adapters import dvc, projects
from release.evidence import trust
from release.ledger import Ledger
from release.overlay import adapter_component
from release.promotion import environment as environments
from release.promotion.checklist import CheckResult, PromotionContext
from release.promotion.environment import Promotion
from release.record.records import Records
from release.serving.beside import BesideAdapter, BesideServer
from release.serving.expected import Expected
from release.serving.options import VerifyOptions
from release.serving.shared_server import AdapterRelease, SharedServer

_AS_CANARY = " (canary)"


@contextlib.contextmanager
def brought(
    context: PromotionContext, expected: Expected, options: VerifyOptions
) -> Iterator[BesideServer]:
    """Bring the adapters that ``options.beside`` runs beside the one of ``expected``, for the block.

    Raises ServingRefused if that environment shares no server, runs another base, or the image has its server in it;
    EvidenceRefused if there is no such environment, or what it runs cannot be read or brought.
    """
    name = options.beside
    assert name is not None
    context.rule(name)
    server = environments.shared(context, name, environments.look(context, name).files)
    if server is None:
        raise ServingRefused(
            f"--beside: {name} shares no server with other adapters", "verify without --beside"
        )
    if expected.image is not None and expected.image.base is not None:
        raise ServingRefused(
            "--beside: no adapter can be added to an image that has its server in it",
            "set serve.base: null, and run `lockstep build`",
        )
    host = server.host()
    others = server.others()
    _on_one_base(context, others)
    stated = [
        _signed(context, server.environment_of(other), other).predicate.serving.probes
        for other in others
    ]
    # The server is started as its own project starts it. Only the names and the bounds of the checks are this one's.
    params = next((other.serve for other in others if other.project == host), expected.params.serve)
    called = expected.params.serve.name
    serve = params.model_copy(update={"name": f"{called}{server.canary}"})
    names = adapter_component.names(called, expected.path, server.canary)
    own = () if host == server.own else tuple(key for key in names if key != serve.name)
    with tempfile.TemporaryDirectory(prefix="lockstep-beside-") as home:
        there = Path(home).resolve()
        adapters = tuple(
            _bring(server, other, host, there, probes)
            for other, probes in zip(others, stated, strict=True)
        )
        yield BesideServer(name, str(host), serve, own, adapters)


def compared(promotion: Promotion, release: Release, result: CheckResult) -> None:
    """Check that the release was verified beside the adapters that its server runs now.

    Only an environment with ``served_as_verified`` refuses another one. Elsewhere the note says so.
    """
    server = environments.shared(promotion.context, promotion.environment, promotion.present.files)
    if server is None:
        return
    try:
        # The canary that becomes the release is the same adapter.
        others = [other for other in server.others() if other.pointer.digest != promotion.digest]
        problem = _since(release.serving.beside, others, server.own)
    except (EvidenceRefused, ParamsRefused) as refused:
        problem = f"the adapters beside it cannot be read: {refused.what}"
    result.note += f"; {problem or 'verified beside the adapters that run'}"
    if problem and promotion.rule.served_as_verified:
        again = f"run `lockstep verify --beside {promotion.environment}`, then `lockstep sign`"
        result.fail(problem, again)


def _since(beside: Neighbours | None, others: Sequence[AdapterRelease], own: Path) -> str | None:
    """Say in what the adapters on the server differ from those of the report; None: in nothing.

    ``own``: the project that moves. An adapter of it that is gone by now is what this release replaces.
    """
    now = {_listed_as(other): (other.pointer.model, other.pointer.version) for other in others}
    if beside is None:
        return "it was not verified beside the other adapters on its server" if now else None
    before = {
        adapter.project: (adapter.model, adapter.version)
        for adapter in beside.adapters
        if adapter.project in now or adapter.project not in (str(own), f"{own}{_AS_CANARY}")
    }
    nothing = ("nothing", "nothing")
    changed = []
    for project in sorted({*before, *now}):
        # Another version of the same model may be served with other parameters.
        for old, new in zip(before.get(project, nothing), now.get(project, nothing), strict=True):
            if old != new:
                changed.append(f"{project} from {old} to {new}")
                break
    return f"since it was verified, {', '.join(changed)} moved" if changed else None


def _listed_as(other: AdapterRelease) -> str:
    """Return what a report calls the project of an adapter. No folder that can be listed has parentheses."""
    return f"{other.project}{_AS_CANARY if other.canary else ''}"


def _on_one_base(context: PromotionContext, others: tuple[AdapterRelease, ...]) -> None:
    """Raise ServingRefused unless this record ships an adapter, on the base of all others."""
    parity = context.records.work_tree.report(layout.PARITY_REPORT, ParityReport)
    base = parity.shipped_adapter and parity.shipped_adapter.weights
    if base is None:
        raise ServingRefused(
            "--beside: this record ships one merged model, which shares no server",
            "set merge.form: adapter, and run `./lockstep run`",
        )
    if apart := [other for other in others if other.weights != base]:
        raise ServingRefused(
            f"--beside: {apart[0].called} has the base {apart[0].weights}, this record {base}",
            "train on that base, with that tokenizer and chat template",
        )


def _bring(
    server: SharedServer, other: AdapterRelease, host: Path, home: Path, stated: str
) -> BesideAdapter:
    """Bring an adapter and its model's offline answers, whose digest is ``stated``, below ``home``.

    Raises EvidenceRefused if they cannot be had.
    """
    names = adapter_component.names(other.serve.name, other.path, other.canary)
    mount = names[f"{other.serve.name}{other.canary}"]
    folder = home / mount.lstrip("/")
    folder.parent.mkdir(parents=True)
    probes = folder.with_name(layout.PROBES.name)
    _get(server, other, layout.MERGED / layout.SHIPPED_ADAPTER, folder)
    if digest.of_tree(folder).digest != other.adapter:
        raise _another(server, other, layout.MERGED)
    _get(server, other, layout.PROBES, probes)
    if digest.of_file(probes).sha256 != stated:
        raise _another(server, other, layout.PROBES)
    loaded = LoadedAdapter(
        project=_listed_as(other), version=other.pointer.version, model=other.pointer.model, probes=stated
    )  # fmt: skip
    # The adapter of the server's own project has one name there.
    called = (other.serve.name,) if other.project == host else tuple(names)
    report = files.read_json(probes, ProbeReport)
    return BesideAdapter(loaded, other.serve, folder, mount, called, report)


def _signed(context: PromotionContext, environment: str, other: AdapterRelease) -> Statement:
    """Return the statement of a release. Raises EvidenceRefused unless a signer of its own project signed it."""
    root = projects.top(context.root) / other.project
    apart = context._replace(
        records=Records(root),
        signers=trust.known(root, context.trunk, context.target),
        ledger=Ledger.open(root, context.promote),
    )
    try:
        present = environments.look(apart, environment)
        return environments.running(apart, environment, present).statement
    except EvidenceRefused as refused:
        raise EvidenceRefused(f"{other.project}: {refused.what}", refused.todo) from refused


def _get(server: SharedServer, other: AdapterRelease, path: Path, to: Path) -> None:
    root = projects.top(server.records.root) / other.project
    commit = other.pointer.commit
    if why := dvc.get(root, commit, path, to):
        raise EvidenceRefused(
            f"{other.project / path} at {commit[:12]}: DVC cannot fetch it ({why})",
            f"push it where it was made: `lockstep -C {other.project} dvc push`",
        )


def _another(server: SharedServer, other: AdapterRelease, path: Path) -> EvidenceRefused:
    return EvidenceRefused(
        f"{other.project / path} at {other.pointer.commit[:12]}: is not what {other.called} was released with",
        f"see who moved it: `lockstep -C {other.project} history {server.environment_of(other)}`",
    )
