"""Sigstore's keyless signatures, held to account without Sigstore: by its own package and a stand-in for its services.

What cannot be tested here is the way from a job's identity to a bundle: the live services, and the package's talk with them.
"""

import base64
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sigstore._internal.tuf import DEFAULT_TUF_URL, _get_dirs

from checks.formats.serving import ServingReport
from checks.formats.signers import Signer
from checks.formats.statement import PAYLOAD, TREE
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.storage import files, layout
from checks.storage.digest import canonical_json
from release.evidence import dsse, sigstore, trust, verification
from release.image.layout import Layout
from release.verbs.evidence import show
from release.verbs.sign import sign
from tests import build_tree, signing_tree
from tests.sigstore_standin import Standin

OURS = "https://github.com/team/router/.github/workflows/release.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"
CI = Signer(name="ci", may=("release",), identity=OURS, issuer=ISSUER)
THEIRS = OURS.replace("release.yml", "verify.yml")
VERIFIER = Signer(name="verifier", may=("verify",), identity=THEIRS, issuer=ISSUER)
REPOSITORY, MAIN, FILE = "https://github.com/team/router", "refs/heads/main", "/.github/workflows/release.yml"
SHARED, CALLER = "https://github.com/tools/lockstep/.github/workflows/verify.yml", f"{REPOSITORY}{FILE}@{MAIN}"
OLD, NEW = "0" * 40, "1" * 40
PINNED = Signer(name="verifier", may=("verify",), identity=SHARED, commits=(OLD, NEW), caller=CALLER, issuer=ISSUER)
STATEMENT = canonical_json({"_type": "x", "subject": [{"name": "m", "digest": {TREE: "0" * 64}}]})


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No identity of a job, no network, and no roots of trust but those in the package."""
    for name in ("GITHUB_ACTIONS", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITLAB_CI", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def standin() -> Standin:
    """A stand-in that the package takes for Sigstore, when it is asked offline."""
    made = Standin()
    made.trusted(_get_dirs(DEFAULT_TUF_URL)[1] / "trusted_root.json")
    return made


def _bundle(identity: str = OURS, issuer: str = ISSUER) -> bytes:
    """Of a stand-in that nobody trusts."""
    return Standin().bundle(STATEMENT, identity, issuer)


def test_the_identity_that_may_is_known_by_name(standin: Standin) -> None:
    found = sigstore.verify(standin.bundle(STATEMENT, OURS, ISSUER), (CI,), "release", "evidence", offline=True)
    assert found == (STATEMENT, "ci")


def test_an_identity_without_the_role_is_refused(standin: Standin) -> None:
    with pytest.raises(EvidenceRefused, match="ci, who may release and not approve"):
        sigstore.verify(standin.bundle(STATEMENT, OURS, ISSUER), (CI,), "approve", "evidence", offline=True)


def _edited(**change: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    """Change fields of a bundle by path; ``None`` takes what another bundle of the same signer has."""

    def edit(plain: dict[str, Any], other: dict[str, Any]) -> None:
        for path, value in change.items():
            *parents, last = [int(part) if part.isdigit() else part for part in path.split("__")]
            at: Any = plain
            theirs: Any = other
            for part in parents:
                at, theirs = at[part], theirs[part]
            at[last] = theirs[last] if value is None else value

    return edit


ENTRY = "verificationMaterial__tlogEntries__0"
TAMPERS: list[tuple[str, Callable[[dict[str, Any], dict[str, Any]], object]]] = [
    ("another payload", _edited(dsseEnvelope__payload="e30=")),
    ("the payload of another", _edited(dsseEnvelope__payload=None)),
    ("another envelope", _edited(dsseEnvelope=None)),
    ("another signature", _edited(dsseEnvelope__signatures=None)),
    ("another type", _edited(dsseEnvelope__payloadType="text/plain")),
    ("another certificate", _edited(verificationMaterial__certificate=None)),
    ("another log entry", _edited(**{ENTRY: None})),
    ("another body", _edited(**{f"{ENTRY}__canonicalizedBody": None})),
    ("another promise", _edited(**{f"{ENTRY}__inclusionPromise": None})),
    ("another proof", _edited(**{f"{ENTRY}__inclusionProof": None})),
    ("another checkpoint", _edited(**{f"{ENTRY}__inclusionProof__checkpoint": None})),
    ("a later time", _edited(**{f"{ENTRY}__integratedTime": "1999999999"})),
    ("no promise, so no time", _edited(**{f"{ENTRY}__inclusionPromise": {"signedEntryTimestamp": ""}})),
    ("another kind of entry", _edited(**{f"{ENTRY}__kindVersion__kind": "intoto"})),
    ("no log entry", _edited(verificationMaterial__tlogEntries=[])),
]


@pytest.mark.parametrize(("what", "change"), TAMPERS, ids=[what for what, _ in TAMPERS])
def test_a_bundle_whose_parts_do_not_belong_together_is_refused(
    what: str, change: Callable[[dict[str, Any], dict[str, Any]], object], standin: Standin
) -> None:
    plain = json.loads(standin.bundle(STATEMENT, OURS, ISSUER))
    change(plain, json.loads(standin.bundle(STATEMENT + b" ", OURS, ISSUER)))
    with pytest.raises(EvidenceRefused):
        sigstore.verify(json.dumps(plain).encode(), (CI,), "release", "evidence", offline=True)


@pytest.mark.parametrize(
    "caller",
    [
        f"https://github.com/eve/router{FILE}@{MAIN}",
        f"{REPOSITORY}{FILE}@refs/heads/feature",
        f"{REPOSITORY}{FILE}@refs/pull/7/merge",
        f"{REPOSITORY}{FILE}@refs/tags/main",
        f"{REPOSITORY}x{FILE}@{MAIN}",
        "",
    ],
    ids=["of another repository", "of a branch", "of a pull request", "of a tag", "of a longer name", "not said"],
)
@pytest.mark.parametrize("pinned", [False, True], ids=["own workflow", "pinned workflow"])
def test_a_workflow_that_somebody_else_calls_is_not_the_one_that_may_sign(
    caller: str, pinned: bool, standin: Standin
) -> None:
    """A called workflow has the identity of its file; its job has checked out, and runs, what the caller has."""
    signer, identity = (PINNED, f"{SHARED}@{OLD}") if pinned else (VERIFIER, THEIRS)
    good = standin.bundle(STATEMENT, identity, ISSUER, f"{REPOSITORY}{FILE}@{MAIN}")
    assert sigstore.verify(good, (signer,), "verify", "evidence", offline=True).signer == "verifier"
    bad = standin.bundle(STATEMENT, identity, ISSUER, caller)
    with pytest.raises(EvidenceRefused, match="signed by an identity that is not verifier"):
        sigstore.verify(bad, (signer,), "verify", "evidence", offline=True)


@pytest.mark.parametrize(
    ("identity", "caller"),
    [
        (f"{SHARED}@{'e' * 40}", CALLER),
        (f"{SHARED}@refs/heads/main", CALLER),
        (SHARED, CALLER),
        (f"{SHARED.replace('/tools/', '/eve/')}@{OLD}", CALLER),
        (f"{SHARED.replace('verify', 'release')}@{OLD}", CALLER),
        (f"{SHARED}@{OLD}", CALLER.replace("release.yml", "other.yml")),
    ],
    ids=["another commit", "a branch", "no commit", "a copy", "another workflow", "called by another file"],
)
def test_a_pinned_workflow_signs_at_the_commits_of_its_entry_for_the_file_that_calls_it(
    identity: str, caller: str, standin: Standin
) -> None:
    bad = standin.bundle(STATEMENT, identity, ISSUER, caller)
    with pytest.raises(EvidenceRefused, match="signed by an identity that is not verifier"):
        sigstore.verify(bad, (PINNED,), "verify", "evidence", offline=True)


def test_after_an_upgrade_both_commits_of_a_workflow_are_one_signer(standin: Standin) -> None:
    for commit in (OLD, NEW):
        data = standin.bundle(STATEMENT, f"{SHARED}@{commit}", ISSUER, CALLER)
        assert sigstore.verify(data, (PINNED,), "verify", "evidence", offline=True).signer == "verifier"


def test_one_job_of_a_release_cannot_sign_in_the_place_of_the_other(standin: Standin) -> None:
    for identity, role, other in ((OURS, "release", "verify"), (THEIRS, "verify", "release")):
        data = standin.bundle(STATEMENT, identity, ISSUER)
        sigstore.verify(data, (CI, VERIFIER), role, "evidence", offline=True)  # type: ignore[arg-type]
        with pytest.raises(EvidenceRefused, match=f"may {role} and not {other}"):
            sigstore.verify(data, (CI, VERIFIER), other, "evidence", offline=True)  # type: ignore[arg-type]


def _signing(monkeypatch: pytest.MonkeyPatch, standin: Standin, identity: str) -> None:
    """From now on this machine is ``identity``, in the eyes of the stand-in."""
    monkeypatch.setattr(sigstore, "identity", lambda: "a token")
    monkeypatch.setattr(sigstore, "sign", lambda payloads: [standin.bundle(one, identity, ISSUER) for one in payloads])


@pytest.mark.slow
def test_a_release_is_signed_and_found_by_an_identity(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in signs in place of Sigstore's services, and its roots are taken as they lie here."""
    from sigstore.verify import Verifier

    root = tmp_path / "run"
    signing_tree.make(root)
    signers = [one.model_dump(mode="json", exclude_none=True) for one in (CI, VERIFIER)]
    (root / layout.SIGNERS).write_text(yaml.safe_dump(signers))
    build_tree.commit(root, "ci signs")
    real = Verifier.production
    monkeypatch.setattr(Verifier, "production", lambda **_: real(offline=True))
    _signing(monkeypatch, standin, OURS)
    by, _ = verification.verifier(root, keyless=True)
    assert by is not None
    report = files.read_json(root / layout.SERVING_REPORT, ServingReport)
    with pytest.raises(EvidenceRefused, match="ci, who may release and not verify"):
        verification.write(root, report, by)
    _signing(monkeypatch, standin, THEIRS)
    assert verification.write(root, report, by) == "verifier"
    _signing(monkeypatch, standin, OURS)
    place = Layout(root / layout.IMAGE)
    done = sign(root, place, keyless=True)
    assert (done.signer, len(done.added)) == ("ci", 5)
    assert sign(root, place, keyless=True) == done._replace(added=())
    walk = show(root, done.statement.predicate.image.image)
    assert (walk.signer, walk.evidence) == ("ci", done.evidence)
    assert any(step.what == "weights signature" and step.note.endswith("by ci") for step in walk.steps)


@pytest.mark.parametrize(
    ("identity", "issuer"),
    [
        ("https://github.com/eve/router/.github/workflows/release.yml@refs/heads/main", ISSUER),
        (OURS.replace("main", "feature"), ISSUER),
        (OURS + "x", ISSUER),
        (OURS[:-1], ISSUER),
        (OURS.upper(), ISSUER),
        (OURS, "https://issuer.example"),
        (OURS, ISSUER + ".example"),
    ],
)
def test_another_identity_is_refused_without_the_network(identity: str, issuer: str) -> None:
    with pytest.raises(EvidenceRefused, match="an identity that is not ci"):
        trust.verify(_bundle(identity, issuer), (CI,), "release", "evidence")


def test_the_right_name_in_a_certificate_of_ones_own_is_no_identity(standin: Standin) -> None:
    with pytest.raises(EvidenceRefused, match="bundle does not hold"):
        sigstore.verify(_bundle(), (CI,), "release", "evidence", offline=True)


def test_without_the_network_nothing_is_taken_on_trust() -> None:
    with pytest.raises(MachineRefused, match="Sigstore cannot be used"):
        trust.verify(_bundle(), (CI,), "release", "evidence")


def test_where_no_identity_is_known_none_is_trusted() -> None:
    with pytest.raises(EvidenceRefused, match="none is known here"):
        trust.verify(_bundle(), (), "release", "evidence")


@pytest.mark.parametrize(
    "change",
    [
        {"verificationMaterial": {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}},
        {"verificationMaterial": {"certificate": {}, "tlogEntries": [{}]}},
        {"verificationMaterial": {}},
        {"dsseEnvelope": {}},
        {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"},
    ],
)
def test_a_bundle_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(EvidenceRefused):
        trust.verify(json.dumps(json.loads(_bundle()) | change).encode(), (CI,), "release", "evidence")


def test_a_machine_without_an_identity_signs_nothing() -> None:
    with pytest.raises(MachineRefused, match="no identity that Sigstore knows"):
        sigstore.sign([STATEMENT])


def test_a_job_whose_identity_cannot_be_had_signs_nothing_and_shows_no_token(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:9/token?x=1")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret-request-token")
    with pytest.raises(MachineRefused, match="Sigstore cannot be used") as caught:
        sigstore.sign([STATEMENT])
    assert "secret-request-token" not in str(caught.value) + caplog.text


def test_sigstores_package_signs_our_bytes_as_they_are_whatever_digests_they_name() -> None:
    from sigstore import dsse as theirs

    key = ec.generate_private_key(ec.SECP256R1())
    plain = json.loads(theirs._sign(key, sigstore._statement(STATEMENT)).to_json())
    assert base64.b64decode(plain["payload"]) == STATEMENT
    assert plain["payloadType"] == PAYLOAD
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signer = Signer(name="ada", may=("release",), key=pem.decode())
    assert dsse.verify(json.dumps(plain).encode(), (signer,), "release").payload == STATEMENT


@pytest.mark.slow
def test_the_package_is_asked_for_only_where_an_identity_counts() -> None:
    text = "import sys; import release.verbs.sign, release.verbs.evidence, release.verbs.keys; print('sigstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_without_the_package_a_key_is_offered_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sigstore", None)
    for call in (lambda: sigstore.sign([STATEMENT]), lambda: trust.verify(_bundle(), (CI,), "release", "evidence")):
        with pytest.raises(MachineRefused, match="sigstore is not installed"):
            call()
