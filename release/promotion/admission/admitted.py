"""Lists what a cluster may run in an environment: the releases promoted to it that are not in quarantine."""

import contextlib
import re
from collections.abc import Container
from typing import Any, NamedTuple

from checks.formats import quarantine
from checks.formats.pointer import Pointer
from checks.formats.signers import Signer
from checks.process.errors import EvidenceRefused, ParamsRefused, PromotionRefused
from checks.storage import layout
from release.adapters.registry import reference
from release.evidence import attached_statements
from release.ledger import released_pointers
from release.overlay import environment_file, kustomization, overlays
from release.promotion import emergency, quarantined
from release.promotion import environment as environments
from release.promotion.checklist import PromotionContext
from release.promotion.emergency import Exemption

_HUB, _LIBRARY = "docker.io/", "library/"


class Admitted(NamedTuple):
    """``repositories``: HOST/NAME of every release that the environment ever ran. ``images``: the digests that may run.

    ``signers``: who may release, and retired signers of what may run: its pods must restart. ``signatures``: how many
    of them must have signed. ``exemption``: the exception that the running release needs.
    """

    environment: str
    namespace: str
    repositories: tuple[str, ...]
    images: tuple[str, ...]
    signers: tuple[Signer, ...]
    signatures: int
    exemption: Exemption | None = None

    @property
    def written(self) -> tuple[str, ...]:
        """Return the repositories as the text of a pod may name them: with or without Docker Hub."""
        shorter = {name: name.removeprefix(_HUB) for name in self.repositories}
        names = (
            (full, short, short.removeprefix(_LIBRARY) if short != full else short)
            for full, short in shorter.items()
        )
        return tuple(dict.fromkeys(name for written in names for name in written))

    @property
    def exceptions(self) -> tuple[str, ...]:
        """A comment if the running release needs an exception."""
        if self.exemption is None:
            return ()
        return (
            f"{self.exemption.line}. The cluster knows no dates: promote another release and apply its policy before.",
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Comments on what no controller can check."""
        notes = [
            f"{signer.name} signs until {signer.until}. The cluster knows no dates: apply a new policy after that day."
            for signer in self.signers
            if signer.until and not signer.retired()
        ]
        if called := [signer.name for signer in self.signers if signer.source]:
            notes.append(
                f"{', '.join(called)}: identity and issuer are compared. The repository and branch that called the "
                "workflow are not: only Lockstep compares them."
            )
        if self.signatures > 1:
            notes.append(
                "Whether all signers signed the same statement is not compared: only `lockstep promote` does."
            )
        return tuple(notes)


class Policy(NamedTuple):
    """A policy for a controller. ``notes``: what this controller cannot check, beside ``Admitted.notes``.

    ``compares_signers``: whether it checks signatures at all, so that ``Admitted.notes`` apply.
    """

    documents: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()
    compares_signers: bool = True


def certified(signer: Signer) -> dict[str, str | None]:
    """Return the identity of a signer as Kyverno and policy-controller write it."""
    if not signer.commits:
        return {"subject": signer.identity, "issuer": signer.issuer}
    commits = "|".join(signer.commits)
    subject = f"^{re.escape(signer.identity or '')}@({commits})$"
    return {"subjectRegExp": subject, "issuer": signer.issuer}


def admitted(context: PromotionContext, environment: str) -> Admitted:
    """Return what the environment may run as of the tip, newest first.

    Raises PromotionRefused if the environment runs nothing, a release in quarantine or one that no cluster can pull;
    EvidenceRefused if the evidence of what runs is invalid, its signer may no longer release, or fewer signers may
    release than must sign.
    """
    rule = context.rule(environment)
    pointer = context.runs(environment)
    if pointer is None:
        raise PromotionRefused(
            f"{environment} runs nothing", f"run `lockstep promote {environment}`, then again"
        )
    entries = quarantined.read(context).entries
    if entry := quarantine.find(entries, pointer.digest, pointer.model):
        raise PromotionRefused(
            f"{environment} runs {pointer.version}, which is in quarantine: {entry.why}",
            f"run `lockstep rollback {environment} --why TEXT`, then again",
        )
    standing = emergency.of(context, environment)
    if standing.problem:
        raise PromotionRefused(f"{environment} {standing.problem}", f"{standing.todo}; then again")
    if why := overlays.unreachable(pointer):
        raise PromotionRefused(
            why, "promote an image of a registry: `lockstep build --push HOST/NAME:TAG`"
        )
    moves = context.ledger.moves(context.tip, environment)
    ran = dict.fromkeys(move.after for move in moves if move.after and move.ran)
    pulled = [release for release in ran if not overlays.unreachable(release)]
    allowed = [
        release.digest
        for release in pulled
        if not quarantine.find(entries, release.digest, release.model)
    ]
    repositories = dict.fromkeys(name for release in pulled for name in _names(release))
    by = _signed_by(context, environment, pointer)
    signers = _signers(context, environment, by, rule.signatures, allowed)
    if len(signers) < rule.signatures:
        names = ", ".join(signer.name for signer in signers)
        raise EvidenceRefused(
            f"{environment} takes {rule.signatures} signatures, and only {names} may release",
            f"let code owners add a signer to {layout.SIGNERS} (`lockstep keys new`)",
        )
    return Admitted(
        environment, _namespace(context, environment), tuple(repositories), tuple(dict.fromkeys(allowed)),
        signers, rule.signatures, standing.exemption,
    )  # fmt: skip


def _names(pointer: Pointer) -> tuple[str, ...]:
    """Return the repository, and the other name that Docker Hub has."""
    image = reference.parse(pointer.image)
    name = f"{image.host}/{image.name}"
    return (name, f"index.{name}") if name.startswith(_HUB) else (name,)


def _signed_by(context: PromotionContext, environment: str, its: Pointer) -> Signer:
    """Return who signed what runs."""
    path = released_pointers.path(environment)
    name = f"{path} of {context.ledger.shown}"
    envelope = released_pointers.envelope(context.ledger.read(context.tip, path), its, name)
    by = environments.signed(context, environment, its, envelope.data, name).signer
    return next(signer for signer in context.signers if signer.name == by)


def _signers(
    context: PromotionContext, environment: str, by: Signer, signatures: int, images: Container[str]
) -> tuple[Signer, ...]:
    """Return who may release, in the order of the file. Retired signers only if they signed what may run.

    The ledger keeps one signature of each release. If several must sign, all retired signers stay: they may be others.
    """
    may = [signer for signer in context.signers if "release" in signer.may]
    retired = {signer.name for signer in may if signer.retired()} - {by.name}
    if retired and signatures == 1:
        retired -= _signed(context, environment, images)
        may = [signer for signer in may if signer.name not in retired]
    return tuple(may)


def _signed(context: PromotionContext, environment: str, images: Container[str]) -> set[str]:
    """Return who signed what may run, as the ledger recorded it. Evidence that does not count has no signer."""
    names = set[str]()
    for pointer, envelope in released_pointers.releases(
        context.ledger, context.tip, (environment,)
    ).values():
        if envelope and pointer.digest in images:
            at = context.ledger.recorded(context.tip, environment, pointer)
            with contextlib.suppress(EvidenceRefused):
                names.add(
                    attached_statements.check(
                        envelope.data, pointer.digest, context.signers, at=at
                    ).signer
                )
    return names


def _namespace(context: PromotionContext, environment: str) -> str:
    """Return the namespace that the committed kustomization.yaml has, which must be what environment.yaml gives."""
    source = environment_file.path(environment)
    rendered = source.with_name(kustomization.NAME)
    try:
        file = environment_file.read(
            environment, {source: context.ledger.read(context.tip, source)}
        )
    except ParamsRefused as refused:
        raise EvidenceRefused(f"{refused.what} ({context.ledger.shown})", refused.todo) from refused
    if context.ledger.read(context.tip, rendered) != kustomization.render(environment, file):
        raise EvidenceRefused(
            f"{rendered} of {context.ledger.shown}: is not what {environment_file.NAME} gives",
            f"run `lockstep render {environment}`, and commit it",
        )
    if file.namespace is None or file.adapters:
        raise EvidenceRefused(
            f"{source}: its server runs images of several projects, which no policy here lists",
            "write the policy by hand, or give each adapter a server of its own",
        )
    return file.namespace
