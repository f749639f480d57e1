"""Checks of files on the target branch: workflows, the DVC remote, signers, CODEOWNERS.

The files that decide about releases have an owner, and GitHub accepts every owner. The package ``codeowners`` decides
which pattern matches a file; GitHub has no endpoint for it.
"""

import configparser
import re
from functools import partial
from pathlib import Path

import yaml
from codeowners import CodeOwners

from checks.formats.signers import Role
from checks.process.errors import Refusal
from checks.storage import layout
from release.adapters import dvc
from release.doctor.check import Finding, Unseen, Wanted, want
from release.doctor.github import parsed, shown
from release.doctor.repository import CONTENTS, Repository, Target
from release.evidence import trust, workflow_signers

WORKFLOWS = ("pr.yml", "release.yml", "verify.yml", "promote.yml", "scheduled.yml")
_DVC = Path(".dvc/config")
_ADD = "./lockstep dvc remote add -d storage s3://BUCKET/PREFIX, commit .dvc/config, push"
_REMOTE = re.compile(r"""'?remote "(.+?)"'?""")  # a section of the configuration
_SHARED = {
    "s3",
    "gs",
    "http",
    "https",
    "ssh",
    "azure",
    "gdrive",
    "oss",
    "webhdfs",
    "hdfs",
    "webdav",
    "webdavs",
}

# The first of these files that exists counts.
PLACES = (Path(".github/CODEOWNERS"), Path("CODEOWNERS"), Path("docs/CODEOWNERS"))
PLACEHOLDER = "@your-organization/"
# One file of each place that decides about verdicts, about who may release, or about what runs.
GUARDED = (
    "checks/gates/__init__.py",
    "dvc.yaml",
    "lockstep",
    "lockstep-requirements.txt",
    "kinds/gates/own.py",
    "release/runtimes/own.yaml",
    ".gitattributes",
    "release/policy/signers.yaml",
    "release/policy/approved.yaml",
    "release/environments/production/environment.yaml",
    ".github/CODEOWNERS",
    ".github/workflows/pr.yml",
    "yaml.py",  # any module at the top: Python would import it in a package's place
    # What names files to write or is imported counts in folders that everybody may change, too.
    "datasets/rows.jsonl.dvc",
    "reports/dvc.yaml",
    "datasets/.dvc/config",
    "reports/.dvcignore",
    "datasets/__init__.py",
    "docs/extension.so",
    "docs/site.pth",
    layout.NOISE.as_posix(),
)
_LONGEST = 3 << 20  # bytes: GitHub loads no larger CODEOWNERS
_SED = "sed -i 's|@your-organization/model-owners|@OWNER/TEAM|' .github/CODEOWNERS"


def _workflows(target: Target) -> str:
    names = [name for name in WORKFLOWS if name != "verify.yml" or not _pinned(target)]
    absent = [name for name in names if target.read_shared(workflow_signers.FOLDER / name) is None]
    want(
        not absent,
        f"{', '.join(absent)}: not on {target.name}",
        "`./lockstep upgrade --workflows OWNER/lockstep`, commit, push, and git fetch",
    )
    return f"all {len(names)} on {target.name}"


def _pinned(target: Target) -> tuple[str, str] | None:
    return workflow_signers.pinned(_release(target))


def _release(target: Target) -> bytes:
    return target.read_shared(workflow_signers.RELEASE) or b""


def remote(target: Target) -> tuple[str, str, tuple[str, str] | None]:
    """Name and address of the default DVC remote in the committed configuration, and as ``dvc.versioning`` says.

    Raises Finding, Refusal.
    """
    place, data = f"{_DVC} on {target.name}", target.read_shared(_DVC)
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read_string((data or b"").decode())
    except (configparser.Error, UnicodeDecodeError):
        raise Finding(f"{place}: cannot be read", "fix it: dvc config --list") from None
    name = config.get("core", "remote", fallback="").strip().lower()  # so DVC compares names
    config_values = {
        f"remote.{section_name[1].lower()}.{key}": value.strip()
        for section in config.sections()
        if (section_name := _REMOTE.fullmatch(section))
        for key, value in config[section].items()
    }
    address = want(
        config_values.get(f"remote.{name}.url", ""), f"{place} names no default remote", _ADD
    )
    return name, address, dvc.versioning(config_values, name)


def _remote(target: Target) -> str:
    name, address, versioned = remote(target)
    scheme = address.partition("://")[0] if "://" in address else ""
    want(
        scheme in _SHARED, "is a folder of one machine: the jobs of a workflow run on several", _ADD
    )
    if versioned:
        raise Finding(*dvc.unfit(name, *versioned))
    return f"{name}, {scheme}://"


def _called(repository: Repository) -> str:
    """Look who owns the workflows that are called: GitHub gives self-hosted runners and secrets to no other owner's."""
    pinned = _pinned(repository.target)
    if pinned is None:
        return "none of another repository"
    owner = shown(repository.answer["full_name"]).partition("/")[0]
    home, _, name = pinned[0].partition("/")
    if home.lower() != owner.lower():
        raise Unseen(
            f"{pinned[0]}: its jobs get no runner and no secret of {owner}, unless both are of one enterprise",
            f"fork it into {owner}, then run ./lockstep upgrade --workflows {owner}/{name}",
        )
    return f"{pinned[0]} has the same owner"


def _signer(name: str, role: Role, what: str, repository: Repository) -> str:
    """Require the workflow that signs among the signers."""
    full_name = shown(repository.answer["full_name"])
    release = _release(repository.target)
    wanted = workflow_signers.signer(name, role, full_name, repository.branch, release)
    entry = yaml.safe_dump(
        wanted.model_dump(mode="json", exclude_defaults=True),
        default_flow_style=True,
        sort_keys=False,
        width=10_000,
    )
    fix = f"add to {layout.SIGNERS}: {entry.strip()}"
    try:
        may = [
            signer
            for signer in trust.known(repository.target.root)
            if role in signer.may and not signer.retired()
        ]
    except Refusal as refusal:
        raise Finding(refusal.what, fix) from None
    names = ", ".join(signer.name for signer in may[:5]) or "nobody"
    if any(signer.identity for signer in may) and not repository.public:
        raise Unseen(f"{names}: the issuer of this server is not known", "compare it by hand")
    own = [
        signer
        for signer in may
        if (signer.identity, signer.caller, signer.issuer)
        == (wanted.identity, wanted.caller, wanted.issuer)
    ]
    file = f"{role}.yml"
    place = f"commit {wanted.commits[0][:12]}" if wanted.commits else "this repository"
    if own and not set(wanted.commits) <= set(own[0].commits):
        fix = f"add {wanted.commits[0]} to the commits of {own[0].name} in {layout.SIGNERS}"
        own = []
    want(own, f"{names} may {what}, and {file} of {place} may not", fix)
    return f"{own[0].name} is {file} of {place}"


LOCAL = (
    Wanted("workflows", ("pull requests", "releases"), _workflows),
    Wanted("DVC remote", ("every workflow",), _remote),
)
SIGNERS = (
    Wanted("called workflows", ("every workflow",), _called),
    Wanted(
        "signers",
        ("release.yml", "promote.yml"),
        partial(_signer, *workflow_signers.SIGNING[0], "sign releases"),
    ),
    Wanted(
        "verifiers",
        ("release.yml", "promote.yml"),
        partial(_signer, *workflow_signers.SIGNING[1], "sign verifications"),
    ),
)


def parse(text: str) -> CodeOwners:
    """Return the owners of files, without comments, which may name people too. Raises ValueError for an unclosed [."""
    return CodeOwners("\n".join(line.partition("#")[0] for line in text.splitlines()))


def _owners(repository: Repository) -> str:
    """Require owners of the files that decide about releases, and no error of GitHub for any of them.

    GitHub ignores an owner who does not exist or has no write access: then nobody is asked for a review.
    """
    texts = (
        (path, data) for path in PLACES if (data := repository.target.read_shared(path)) is not None
    )
    fix = "git restore .github/CODEOWNERS, commit, push"
    path, data = want(next(texts, None), "there is none on the target branch", fix)
    try:
        rules = parse(data[:_LONGEST].decode(errors="replace"))
    except ValueError as error:
        raise Finding(
            f"{path}: {shown(error)}", "write it without [, which GitHub does not take"
        ) from None
    left = any(name.startswith(PLACEHOLDER) for _, _, names, *_ in rules.paths for _, name in names)
    want(not left, f"{path}: the owner is still the placeholder, so nobody reviews", _SED)
    folder = repository.target.folder
    files = dict.fromkeys((*GUARDED, *((folder / file).as_posix() for file in GUARDED)))
    owners = {file: [name for _, name in rules.of(file)] for file in files}
    bare = [file for file, names in owners.items() if not names]
    want(
        not bare, f"{path}: nobody owns {', '.join(bare)}", "give them an owner there, commit, push"
    )
    fix = "name people or teams who may write: gh api repos/{owner}/{repo}/codeowners/errors"
    answer = repository.github.one("codeowners/errors", CONTENTS, "errors")
    for problem in parsed(list[dict[str, object]], answer["errors"], "codeowners/errors"):
        raise Finding(
            f"{path}, line {shown(problem.get('line'))}: {shown(problem.get('kind'))}", fix
        )
    return shown(", ".join(sorted({name for names in owners.values() for name in names})))


OWNERS = (Wanted("CODEOWNERS", ("merging",), _owners),)
