"""Checks CODEOWNERS: the files that decide about releases have an owner, and GitHub accepts every owner.

The package ``codeowners`` decides which pattern matches a file; GitHub has no endpoint for it.
"""

from pathlib import Path

from codeowners import CodeOwners

from checks.storage import layout
from release.doctor.check import Finding, Wanted, want
from release.doctor.github import parsed, shown
from release.doctor.repository import CONTENTS, Repository

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


WANTED = (Wanted("CODEOWNERS", ("merging",), _owners),)
