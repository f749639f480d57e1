"""What the workflows need of the files on the target branch: the workflows, a DVC remote, who may sign."""

import configparser
from pathlib import Path
from typing import NamedTuple

from checks import layout, params_file
from checks.errors import EvidenceRefused, Refusal
from checks.signers import Role
from release.adapters import commits
from release.doctor.check import Check, Line
from release.evidence import trust
from release.overlay import named_server

WORKFLOWS = ("pr.yml", "release.yml", "verify.yml", "promote.yml", "scheduled.yml")
_FOLDER = Path(".github/workflows")
_DVC = Path(".dvc/config")
_ISSUER = "https://token.actions.githubusercontent.com"
# Of a role: the signer's name in the documents, what doctor calls it, what it may do.
_WORDS: dict[Role, tuple[str, str, str]] = {
    "release": ("ci", "signers", "sign releases"), "verify": ("verifier", "verifiers", "sign verifications"),
}  # fmt: skip
_SHARED = {"s3", "gs", "http", "https", "ssh", "azure", "gdrive", "oss", "webhdfs", "hdfs", "webdav", "webdavs"}


class Target:
    """The files of the target branch, as git has it here; those of the folder where git has no commit yet.

    ``name`` is the branch's. Raises Refusal where git does not know which one it is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name, self._commit = commits.target(root) if commits.has_repository(root) else ("this folder", None)

    def read(self, path: Path) -> bytes | None:
        """A file's bytes; None when there is none. Raises Refusal for what is no regular file."""
        if self._commit is not None:
            return commits.read(self.root, self._commit, path)
        file = self.root / path
        try:
            return file.read_bytes() if file.is_file() else None
        except OSError as error:
            raise EvidenceRefused(f"{path}: {error.strerror or error}", "make it readable") from error


def workflows(target: Target) -> Check:
    line = Line("workflows", ("pull requests", "releases"))
    try:
        absent = [name for name in WORKFLOWS if target.read(_FOLDER / name) is None]
    except Refusal as refusal:
        return line.missing(refusal.what, refusal.todo)
    if absent:
        return line.missing(f"{', '.join(absent)}: not on {target.name}", "commit them, push, and git fetch")
    return line.ok(f"all {len(WORKFLOWS)} on {target.name}")


def remote(target: Target) -> tuple[Check, str | None]:
    """The default DVC remote as the repository has it, for everybody, and its address."""
    line = Line("DVC remote", ("every workflow",))
    mend = "dvc remote add -d storage s3://BUCKET/PREFIX, commit .dvc/config, push"
    try:
        where, data = target.name, target.read(_DVC)
    except Refusal as refusal:
        return line.missing(refusal.what, refusal.todo), None
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read_string((data or b"").decode())
    except (configparser.Error, UnicodeDecodeError):
        return line.missing(f"{_DVC} on {where}: cannot be read", "mend it: dvc config --list"), None
    name = config.get("core", "remote", fallback="").strip()
    address = config.get(f"'remote \"{name}\"'", "url", fallback="").strip() if name else ""
    if not address:
        return line.missing(f"{_DVC} on {where} names no default remote", mend), None
    scheme = address.partition("://")[0] if "://" in address else ""
    if scheme not in _SHARED:
        return line.missing("is a folder of one machine: the jobs of a workflow run on several", mend), address
    return line.ok(f"{name}, {scheme}://"), address


class Serving(NamedTuple):
    """``server``: the image that weights are served in, None: none is named; ``strict``: production asks for it."""

    server: str | None
    strict: bool


def serving(target: Target) -> Serving:
    """What the target branch says of it: ``serve.base``, else the one server that its environments name for weights."""
    try:
        text = target.read(layout.PARAMS)
        params = params_file.parse(text.decode()) if text is not None else None
        if params is None:
            return Serving(None, False)
        folders = {name: layout.ENVIRONMENTS / name / "kustomization.yaml" for name in params.promote.environments}
        files = {path: target.read(path) for path in folders.values()}
    except (Refusal, UnicodeDecodeError):
        return Serving(None, False)
    named = {named_server.named(name, files) for name in folders}
    alone = next(iter(named)) if len(named) == 1 else None
    production = params.promote.environments.get("production")
    return Serving(params.serve.base or alone, production is not None and production.served_as_verified)


def signers(root: Path, repository: str, branch: str, *, public: bool) -> list[Check]:
    """Whether the workflows of this repository may sign. ``public``: it is on github.com."""
    return [
        _signer(root, repository, branch, "release", "release.yml", public=public),
        _signer(root, repository, branch, "verify", "verify.yml", public=public),
    ]


def _signer(root: Path, repository: str, branch: str, role: Role, file: str, *, public: bool) -> Check:
    name, kind, what = _WORDS[role]
    line = Line(kind, ("release.yml", "promote.yml"))
    identity = f"https://github.com/{repository}/.github/workflows/{file}@refs/heads/{branch}"
    entry = f"add to {layout.SIGNERS}: {{name: {name}, may: [{role}], identity: {identity}, issuer: {_ISSUER}}}"
    try:
        known = trust.known(root)
    except Refusal as refusal:
        return line.missing(refusal.what, entry)
    may = [signer for signer in known if role in signer.may]
    if not may:
        return line.missing(f"nobody may {what}", entry)
    if not public:
        machines = [signer.name for signer in may if signer.identity]
        if machines:
            return line.unknown(f"{', '.join(machines)}: the issuer of this server is not known", "compare it by hand")
    elif own := [signer.name for signer in may if (signer.identity, signer.issuer) == (identity, _ISSUER)]:
        return line.ok(f"{own[0]} is {file} of this repository")
    others = ", ".join(signer.name for signer in may[:5])
    return line.missing(f"{others} may {what}, and {file} of this repository may not", entry)
