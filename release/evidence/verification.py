"""The signed verification: the report of `lockstep verify`, signed on the machine that ran it.

It is stored as reports/serving.intoto.json. `lockstep sign` includes it unchanged in the release's statement, and
`lockstep promote` checks it again. So whoever signs releases cannot invent a serving report, unless
release/policy/signers.yaml gives the same key or identity the role `verify` too.

How it differs from the way the release will be served is said here, too. The server is the image itself if it contains
one; for weights alone it is the server image that the release names, else the environment. A verification in anything
else (another runtime, a process, a URL, another server) proves less.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from checks.formats.pointer import Served
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.signers import Signers
from checks.formats.statement import Release, Verification
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.evidence import keys, sigstore, statement, trust
from release.evidence.trust import Signatory
from release.overlay import named_server

_AGAIN = (
    "run `lockstep verify` with a key or an identity that may verify (docs/explanation/evidence.md)"
)

AGAIN = "run `lockstep verify`, then `lockstep sign`"


def verifier(
    root: Path, key: Path | None = None, *, keyless: bool = False
) -> tuple[Signatory | None, str]:
    """Find who will sign the verification, before anything starts; None and the reason if nobody will.

    ``key`` is by default that of `lockstep keys new`, if it exists and may verify. Raises EvidenceRefused if the given
    key or identity may not verify, MachineRefused if this machine has no identity.
    """
    if keyless:
        known = trust.known(root)
        if not any(signer.identity and "verify" in signer.may for signer in known):
            raise EvidenceRefused(
                f"{layout.SIGNERS} of the target branch names no identity that may verify",
                "add the identity of this workflow with `may: [verify]` (docs/explanation/evidence.md)",
            )
        sigstore.identity()
        return Signatory(None, known), ""
    if key is None and not (root / keys.KEY).is_file():
        return (
            None,
            "there is no key here: `lockstep keys new --name NAME --add`, commit, and verify again",
        )
    signer = keys.load(key or root / keys.KEY)
    try:
        known = trust.known(root)
        trust.owner(signer, known, "verify")
    except EvidenceRefused as refused:
        if key is not None:
            raise
        return None, str(refused)
    return Signatory(signer, known), ""


def write(root: Path, report: ServingReport, signatory: Signatory) -> str:
    """Sign the report in ``root``, write reports/serving.intoto.json, and return the signer's name.

    Raises EvidenceRefused if the identity may not verify, MachineRefused if Sigstore cannot be reached.
    """
    payload = statement.verification(report, digest.of_file(root / layout.SERVING_REPORT).sha256)
    data = signatory.sign(payload)
    name, _ = check(data, report, signatory.known, str(layout.SERVING_STATEMENT))
    with files.replacing(root / layout.SERVING_STATEMENT) as stream:
        stream.write(data)
    return name


def read(root: Path, report: ServingReport, known: Signers) -> str:
    """Return the signed verification of the report in ``root``, as text for the release's statement.

    Raises EvidenceRefused if it is missing, about another report, or not signed by a verifier.
    """
    name, path = str(layout.SERVING_STATEMENT), root / layout.SERVING_STATEMENT
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvidenceRefused(
            f"{layout.SERVING_REPORT}: is not signed by a verifier: {name}: {error.strerror or error}",
            _AGAIN,
        ) from error
    _, stated = check(data, report, known, name)
    if (report_digest := digest.of_file(root / layout.SERVING_REPORT).sha256) != stated.file:
        raise EvidenceRefused(
            f"{layout.SERVING_REPORT}: is {report_digest}, {name} is about {stated.file}", _AGAIN
        )
    return data.decode()


def check(
    data: bytes,
    report: ServingReport,
    known: Signers,
    where: str,
    *,
    offline: bool = False,
    at: datetime | None = None,
) -> tuple[str, Verification]:
    """The verifier, one of ``known``, who signed exactly ``report``, and the signed statement.

    ``offline`` and ``at`` are those of ``trust.verify``. Raises EvidenceRefused if no verifier signed the report, and
    MachineRefused as ``trust.verify``.
    """
    try:
        verified = trust.verify(data, known, "verify", where, offline=offline, at=at)
        stated = statement.parse_as(verified.payload, where, Verification)
    except EvidenceRefused as refused:
        raise EvidenceRefused(refused.what, _AGAIN, refused.others) from refused
    if (theirs := stated.predicate.report) != report:
        fields = [
            name
            for name in type(report).model_fields
            if getattr(theirs, name) != getattr(report, name)
        ]
        raise EvidenceRefused(
            f"{where}: is about another serving report: {', '.join(fields)} differ", _AGAIN
        )
    return verified.signer, stated


def served_how(release: Release, environment: str, files: Mapping[Path, bytes]) -> Served:
    """Return what the pointer records: ``as-served``, or how the verification differed."""
    return release.serving.how if unlike_serving(release, environment, files) else "as-served"


def differences(image: ImageReport, serving: ServingReport, named: str | None) -> list[str]:
    """Return how the verification differs from the way it will be served; empty if it does not.

    ``named``: the server image that the environment names for weights alone, NAME@sha256:…. It counts where the
    release names none itself.
    """
    names, named = ("release", image.server) if image.server else ("environment", named)
    differences = []
    if serving.how != "container":
        differences.append(f"it ran as a {serving.how}, not in a container")
    if serving.runtime != image.runtime:
        differences.append(f"{serving.runtime} served it, the image is for {image.runtime}")
    if image.base is None and named is None:
        differences.append(
            "nothing names a server for weights alone (`serve.server` of params.yaml)"
        )
    elif (
        image.base is None
        and serving.how == "container"
        and _digest(serving.server) != _digest(named)
    ):
        differences.append(
            f"the server was {serving.server or 'not recorded'}, the {names} names {named}"
        )
    return differences


def unlike_serving(release: Release, environment: str, files: Mapping[Path, bytes]) -> list[str]:
    """``differences``, for the server that the environment's ``files`` name."""
    return differences(release.image, release.serving, named_server.named(environment, files))


def check_verifier(
    release: Release, known: Signers, *, offline: bool = False, at: datetime | None = None
) -> str:
    """Return who verified. ``at`` is as in ``trust.verify``.

    Raises EvidenceRefused if no verifier signed the report, MachineRefused as ``trust.verify``.
    """
    if release.verification is None:
        raise EvidenceRefused("the serving report is not signed by a verifier", AGAIN)
    return check(
        release.verification.encode(),
        release.serving,
        known,
        "the signed verification",
        offline=offline,
        at=at,
    )[0]


def _digest(name: str | None) -> str:
    return (name or "").rpartition("@")[2]
