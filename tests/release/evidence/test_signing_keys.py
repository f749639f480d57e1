"""Keys, the entries of signers.yaml, and that no secret is ever seen."""

import logging
import os
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from checks.formats import signers
from checks.formats.signers import Role
from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from checks.storage import layout
from release.cli import main
from release.evidence import keys
from release.verbs import keys as key_verbs
from tests.ledger_tree import git

PASSWORD = "correct horse battery staple"
BOTH: tuple[Role, ...] = ("release", "approve")


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    """The public half."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, spki).decode()


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, path: Path) -> Path:
    """The private half in a file that loads."""
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    path.chmod(0o600)
    return path


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.PASSWORD, raising=False)


def test_a_new_key_is_its_owners_alone_and_its_entry_is_a_signer(tmp_path: Path) -> None:
    made = key_verbs.new(tmp_path, "ada", BOTH)
    assert made.private == tmp_path / ".lockstep/keys/lockstep.key"
    assert stat.S_IMODE(made.private.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.private.parent.stat().st_mode) == 0o700
    (signer,) = signers.parse(made.entry, "entry")
    assert (signer.name, signer.may) == ("ada", BOTH)
    assert signer.key == made.public.read_text()
    assert keys.known((signer,))["ada"].keyid == keys.load(made.private).public_key.keyid


def test_openssl_reads_the_key_as_p256_in_pkcs8(tmp_path: Path) -> None:
    made = key_verbs.new(tmp_path, "ada", BOTH)
    assert made.private.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    shown = subprocess.run(
        ["openssl", "pkey", "-in", made.private, "-noout", "-text"], check=True, capture_output=True, text=True
    )
    assert "prime256v1" in shown.stdout
    public = subprocess.run(
        ["openssl", "pkey", "-in", made.private, "-pubout"], check=True, capture_output=True, text=True
    )
    assert public.stdout == made.public.read_text()


def test_a_password_encrypts_the_key_and_is_needed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.PASSWORD, PASSWORD)
    made = key_verbs.new(tmp_path, "ada", BOTH)
    assert made.private.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert keys.load(made.private).public_key.keyid
    monkeypatch.setenv(keys.PASSWORD, "another")
    with pytest.raises(EvidenceRefused, match="another password"):
        keys.load(made.private)
    monkeypatch.delenv(keys.PASSWORD)
    with pytest.raises(EvidenceRefused, match="is not set"):
        keys.load(made.private)


def test_a_password_that_is_no_text_encrypts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.PASSWORD, os.fsdecode(b"caf\xe9"))
    assert keys.load(key_verbs.new(tmp_path, "ada", BOTH).private).public_key.keyid


def test_a_plain_key_is_not_taken_for_an_encrypted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = key_verbs.new(tmp_path, "ada", BOTH)
    monkeypatch.setenv(keys.PASSWORD, PASSWORD)
    with pytest.raises(EvidenceRefused, match="is not encrypted"):
        keys.load(made.private)


@pytest.mark.parametrize("name", ["", "ada lovelace", "-x", "a" * 101])
def test_a_name_that_no_signer_can_have_is_refused_by_that_word_before_a_key_is_made(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(main, ["-C", str(tmp_path), "keys", "new", f"--name={name}", "--add"])
    assert done.exit_code == 8
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"lockstep: --name {name[:100]!r}: is not the name of a signer; give a letter or digit, then"
    )
    assert not (tmp_path / ".lockstep/keys").exists()


def test_no_key_is_ever_overwritten_and_nothing_is_left_behind(tmp_path: Path) -> None:
    made = key_verbs.new(tmp_path, "ada", BOTH)
    before = made.private.read_bytes()
    with pytest.raises(MachineRefused, match="already exists"):
        key_verbs.new(tmp_path, "ada", BOTH)
    made.private.unlink()
    with pytest.raises(MachineRefused, match=r"lockstep\.pub: already exists"):
        key_verbs.new(tmp_path, "ada", BOTH)
    assert not made.private.exists()
    made.private.symlink_to(tmp_path / "elsewhere")
    made.public.unlink()
    with pytest.raises(MachineRefused):
        key_verbs.new(tmp_path, "ada", BOTH)
    assert not (tmp_path / "elsewhere").exists()
    assert before


def test_a_folder_is_no_name_of_a_key(tmp_path: Path) -> None:
    with pytest.raises(MachineRefused, match="is a folder; name the file"):
        key_verbs.new(tmp_path, "ada", BOTH, tmp_path)


def test_a_key_where_git_would_take_it_in_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / layout.STATE).symlink_to("docs")
    with pytest.raises(MachineRefused, match="git would take it in"):
        key_verbs.new(tmp_path, "ada", BOTH)
    assert not list((tmp_path / "docs").iterdir())
    (tmp_path / layout.STATE).unlink()
    with pytest.raises(MachineRefused, match="git would take it in"):
        key_verbs.new(tmp_path, "ada", BOTH, tmp_path / "release" / "my.key")
    with pytest.raises(MachineRefused, match="public half"):
        key_verbs.new(tmp_path / "run", "ada", BOTH, tmp_path / "my.pub")
    assert key_verbs.new(tmp_path / "run", "ada", BOTH, tmp_path / "my.key").public == tmp_path / "my.pub"


@pytest.mark.parametrize(
    ("place", "line"),
    [(None, "/.lockstep/"), ("my.key", "/my.key"), ("../other/a b.key", "/a b.key")],
    ids=["the default", "at the top", "in another repository"],
)
def test_a_key_that_git_does_not_ignore_is_refused_until_the_named_line_is_there(
    tmp_path: Path, place: str | None, line: str
) -> None:
    root, other = tmp_path / "router", tmp_path / "other"
    for folder in (root, other):
        git(tmp_path, "init", "--quiet", str(folder))
    command = ["-C", str(root), "keys", "new", "--name", "ada", *(["--output", str(root / place)] if place else [])]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 9
    ignores = (other if place and ".." in place else root) / ".gitignore"
    assert refused.stderr.endswith(f"git would take it in; add the line `{line}` to {ignores}, or keep it elsewhere\n")
    assert not list(tmp_path.rglob("*.key"))
    ignores.write_text(f"{line}\n")
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    git(ignores.parent, "add", "--all")
    assert not git(ignores.parent, "ls-files", "*.key")


@pytest.mark.parametrize("name", ["", "a b", "- x", "a: b", "a\nb", "${x}", "x" * 200, "'"])
def test_a_name_that_is_none_writes_no_entry(name: str, tmp_path: Path) -> None:
    with pytest.raises(EvidenceRefused):
        key_verbs.new(tmp_path, name, BOTH)
    assert not (tmp_path / ".lockstep").exists()


@pytest.mark.parametrize("name", ["true", "1", "null", "2026-01-01", "ada@example.org"])
def test_a_name_that_yaml_would_read_otherwise_is_quoted(name: str, tmp_path: Path) -> None:
    assert signers.parse(key_verbs.new(tmp_path, name, BOTH).entry, "entry")[0].name == name


def test_signers_are_added_beside_those_that_are_there(tmp_path: Path) -> None:
    first = key_verbs.new(tmp_path, "ada", BOTH)
    assert key_verbs.add_signer(tmp_path, "ada", BOTH) == layout.SIGNERS
    path = tmp_path / layout.SIGNERS
    path.write_text("# guarded by @owners\n" + path.read_text())
    second = key_verbs.new(tmp_path, "bob", ("approve",), tmp_path / ".lockstep/keys/bob.key")
    key_verbs.add_signer(tmp_path, "bob", ("approve",), second.public)
    assert path.read_text().startswith("# guarded by @owners\n")
    assert [signer.name for signer in signers.parse(path.read_text(), "it")] == ["ada", "bob"]
    for name, public in (("ada", second.public), ("eve", first.public)):
        with pytest.raises(EvidenceRefused, match=r"the same (name|key)"):
            key_verbs.add_signer(tmp_path, name, BOTH, public)
    assert len(signers.parse(path.read_text(), "it")) == 2


@pytest.mark.parametrize("text", ["", "[]\n", "# nobody yet\n[]\n"])
def test_the_first_signer_takes_the_place_of_an_empty_list(text: str, tmp_path: Path) -> None:
    key_verbs.new(tmp_path, "ada", BOTH)
    (tmp_path / layout.SIGNERS).parent.mkdir(parents=True)
    (tmp_path / layout.SIGNERS).write_text(text)
    key_verbs.add_signer(tmp_path, "ada", BOTH)
    written = (tmp_path / layout.SIGNERS).read_text()
    assert len(signers.parse(written, "it")) == 1
    assert ("# nobody yet" in written) == ("# nobody yet" in text)


def test_signers_below_a_link_are_left_alone(tmp_path: Path) -> None:
    key_verbs.new(tmp_path, "ada", BOTH)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "release").mkdir()
    (tmp_path / "release/policy").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EvidenceRefused, match="link"):
        key_verbs.add_signer(tmp_path, "ada", BOTH)


WEAK: dict[str, Callable[[], str]] = {
    "RSA key of 1024 bits": lambda: pem(rsa.generate_private_key(65537, 1024)),
    "RSA key of 4096 bits": lambda: pem(rsa.generate_private_key(65537, 4096)),
    "Ed25519 key": lambda: pem(ed25519.Ed25519PrivateKey.generate()),
    "secp384r1": lambda: pem(ec.generate_private_key(ec.SECP384R1())),
    "secp256k1": lambda: pem(ec.generate_private_key(ec.SECP256K1())),
    "not a public key": lambda: "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
}


@pytest.mark.parametrize("cause", WEAK)
def test_another_kind_of_public_key_is_refused_by_its_kind(cause: str) -> None:
    text = WEAK[cause]()
    entry = "- name: ada\n  may: [release]\n  key: |\n" + "".join(f"    {line}\n" for line in text.splitlines())
    with pytest.raises(EvidenceRefused, match=cause) as caught:
        keys.known(signers.parse(entry, "signers.yaml"))
    assert "ada" in str(caught.value)


def _entry(name: str, **fields: object) -> str:
    import yaml

    return yaml.safe_dump([{"name": name, "may": ["release"], **fields}])


GOOD = pem(ec.generate_private_key(ec.SECP256R1()))
IDENTITY = {"identity": "https://github.com/t/r/.github/workflows/x.yml@refs/heads/main", "issuer": "https://issuer"}
BAD_FILES = [
    ("two names for one key", _entry("ada", key=GOOD) + _entry("eve", key=GOOD), "the same key"),
    ("one key, folded otherwise", _entry("ada", key=GOOD) + _entry("eve", key=GOOD + "\n"), "the same key"),
    ("one name twice", _entry("ada", key=GOOD) + _entry("ada", **IDENTITY), "the same name"),
    ("one name in capitals", _entry("ada", key=GOOD) + _entry("ADA", **IDENTITY), "the same name"),
    ("one identity twice", _entry("ci", **IDENTITY) + _entry("cd", **IDENTITY), "the same identity"),
    ("neither key nor identity", _entry("ada"), "has a key, or an identity"),
    ("both", _entry("ada", key=GOOD, **IDENTITY), "has a key, or an identity"),
    ("an identity of any issuer", _entry("ci", identity="x"), "has a key, or an identity"),
    ("an issuer without TLS", _entry("ci", identity="x", issuer="http://issuer"), "issuer"),
    ("a role that is none", _entry("ada", key=GOOD, may=["admin"]), "may"),
    ("a role twice", _entry("ada", key=GOOD, may=["release", "release"]), "role is written twice"),
    ("no role", _entry("ada", key=GOOD, may=[]), "may"),
    ("an unknown field", _entry("ada", key=GOOD, threshold=0), "threshold"),
    ("a last day that is no day", _entry("ada", key=GOOD, until="soon"), "until"),
    ("a last day that is a number", _entry("ada", key=GOOD, until=20261231), "until"),
    ("a last day with a time", _entry("ada", key=GOOD, until=datetime(2026, 12, 31, 10, tzinfo=UTC)), "until"),
    ("an alias", "- &a {name: x, may: [release]}\n- *a\n", "alias"),
    ("a key twice", "- name: a\n  name: b\n", "written twice"),
    ("no list", "name: a\n", "signers.yaml"),
]


@pytest.mark.parametrize(("what", "text", "cause"), BAD_FILES, ids=[what for what, _, _ in BAD_FILES])
def test_a_file_of_signers_that_says_something_else_is_refused(what: str, text: str, cause: str) -> None:
    with pytest.raises(EvidenceRefused, match=cause) as caught:
        signers.parse(text, "signers.yaml")
    assert len(str(caught.value).splitlines()) == 1


def test_a_private_key_among_the_signers_is_refused_and_not_shown(tmp_path: Path) -> None:
    secret = private(ec.generate_private_key(ec.SECP256R1()), tmp_path / "key").read_text()
    with pytest.raises(EvidenceRefused, match="key") as caught:
        signers.parse(_entry("ada", key=secret), "signers.yaml")
    assert secret.splitlines()[1] not in f"{caught.value} {caught.value.others}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666])
def test_a_key_that_others_may_read_is_not_used(mode: int, tmp_path: Path) -> None:
    made = key_verbs.new(tmp_path, "ada", BOTH)
    made.private.chmod(mode)
    with pytest.raises(EvidenceRefused, match="chmod 600"):
        keys.load(made.private)


def test_what_is_no_key_to_sign_with_is_refused(tmp_path: Path) -> None:
    made = key_verbs.new(tmp_path, "ada", BOTH)
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "empty").touch(0o600)
    made.public.chmod(0o600)
    cases = {
        tmp_path / "absent": "No such file",
        tmp_path / "folder": "directory|others",
        tmp_path / "empty": "not a private key",
        made.public: "not a private key",
        private(rsa.generate_private_key(65537, 2048), tmp_path / "rsa"): "P-256",
        private(ec.generate_private_key(ec.SECP384R1()), tmp_path / "p384"): "P-256",
    }
    for path, cause in cases.items():
        with pytest.raises(EvidenceRefused, match=cause):
            keys.load(path)


def test_no_part_of_a_key_or_password_is_in_a_message_or_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(keys.PASSWORD, PASSWORD)
    made = key_verbs.new(tmp_path, "ada", BOTH)
    secret = made.private.read_text()
    damaged = tmp_path / "damaged"
    damaged.write_text(secret[: len(secret) // 2])
    damaged.chmod(0o600)
    said = [made.entry, str(made), repr(keys.load(made.private))]
    for path, password in ((made.private, "wrong " + PASSWORD), (damaged, PASSWORD), (made.private, "")):
        monkeypatch.setenv(keys.PASSWORD, password)
        with pytest.raises(Refusal) as caught:
            keys.load(path)
        link: BaseException | None = caught.value
        while link is not None:
            said.append(repr(link))
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    text = "\n".join([*said, *(record.getMessage() for record in caplog.records)])
    assert PASSWORD not in text
    assert not any(line in text for line in secret.splitlines()[1:-1])
    shown = Path(f"/proc/{os.getpid()}/cmdline").read_bytes()
    assert PASSWORD.encode() not in shown
