"""What a cluster may run in an environment: the releases that were promoted to it and are not in quarantine."""

from typing import NamedTuple

from checks import layout, quarantine
from checks.errors import EvidenceRefused, PromotionRefused
from checks.pointer import Pointer
from checks.signers import Signer
from release.adapters.registry import reference
from release.evidence import released
from release.ledger import past
from release.overlay import edits, overlays
from release.overlay.sources import OWN
from release.promotion import held
from release.promotion.context import PromotionContext

_HUB = "docker.io/"


class Admitted(NamedTuple):
    """``repositories``: HOST/NAME of every release that the environment ever ran. ``images``: the digests that may run.

    ``signers``: who may release, or might until they retired, all by a key or all by an identity, as the current
    release is signed: pods of what ran by then must restart. ``images`` has only what the environment ran.
    """

    environment: str
    namespace: str
    repositories: tuple[str, ...]
    images: tuple[str, ...]
    signers: tuple[Signer, ...]

    @property
    def by_key(self) -> bool:
        """Whether the signers have keys."""
        return self.signers[0].key is not None


def admitted(context: PromotionContext, environment: str) -> Admitted:
    """What the environment may run as of the tip, newest first.

    Raises PromotionRefused if the environment runs nothing, a release in quarantine or one that no cluster can pull;
    EvidenceRefused if the evidence of what runs is invalid or its signer may no longer release.
    """
    context.rule(environment)
    its = context.runs(environment)
    if its is None:
        raise PromotionRefused(f"{environment} runs nothing", f"lockstep promote {environment}, then again")
    entries = held.read(context).entries
    if entry := quarantine.find(entries, its.digest, its.model):
        raise PromotionRefused(
            f"{environment} runs {its.version}, which is in quarantine: {entry.why}",
            f"lockstep rollback {environment} --why TEXT, then again",
        )
    if why := overlays.unreachable(its):
        raise PromotionRefused(why, "promote an image of a registry: lockstep build --push HOST/NAME:TAG")
    moves = context.ledger.moves(context.tip, environment)
    ran = dict.fromkeys(move.after for move in moves if move.after and move.ran)
    pulled = [each for each in ran if not overlays.unreachable(each)]
    allowed = [each.digest for each in pulled if not quarantine.find(entries, each.digest, each.model)]
    names = dict.fromkeys(name for each in pulled for name in _names(each))
    return Admitted(
        environment, _namespace(context, environment), tuple(names), tuple(dict.fromkeys(allowed)),
        _signers(context, environment, its),
    )  # fmt: skip


def _names(pointer: Pointer) -> tuple[str, ...]:
    """The repository, and the other name that Docker Hub has."""
    where = reference.parse(pointer.image)
    name = f"{where.host}/{where.name}"
    return (name, f"index.{name}") if name.startswith(_HUB) else (name,)


def _signers(context: PromotionContext, environment: str, its: Pointer) -> tuple[Signer, ...]:
    path = past.path(environment)
    where = f"{path} of {context.ledger.shown}"
    envelope = past.envelope(context.ledger.read(context.tip, path), its, where)
    recorded = context.ledger.recorded(context.tip, environment, its)
    by = released.check(envelope.data, its.digest, context.signers, where, recorded).signer
    may = [one for one in context.signers if "release" in one.may]
    (signer,) = (one for one in may if one.name == by)
    return tuple(one for one in may if (one.key is None) == (signer.key is None))


def _namespace(context: PromotionContext, environment: str) -> str:
    path = layout.ENVIRONMENTS / environment / OWN
    found = edits.namespace_of(environment, {path: context.ledger.read(context.tip, path)})
    if found is None:
        raise EvidenceRefused(
            f"{path} of {context.ledger.shown}: names no namespace", "write `namespace:` there, one of its own"
        )
    return found
