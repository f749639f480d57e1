"""CODEOWNERS: whether the files that decide about releases have an owner, and whether that owner is somebody.

GitHub passes over an owner who does not exist, or may not write: nobody is asked for a review then.
"""

import re
from pathlib import Path

from checks import layout
from checks.errors import Refusal
from release.doctor.asking import Asker, items, shown, word
from release.doctor.check import Check, Line
from release.doctor.tree import Target

PLACES = (Path(".github/CODEOWNERS"), Path("CODEOWNERS"), Path("docs/CODEOWNERS"))  # the first that is there counts
PLACEHOLDER = "@your-organization/"
# One file of each place that decides what a verdict means, who may release, and what runs.
GUARDED = (
    "checks/gates/__init__.py",
    "dvc.yaml",
    "release/policy/signers.yaml",
    "release/policy/approved.yaml",
    "release/environments/production/kustomization.yaml",
    ".github/CODEOWNERS",
    ".github/workflows/pr.yml",
    "yaml.py",  # any module at the top: Python would import it in a package's place
    layout.NOISE.as_posix(),
)
_LONGEST = 3 << 20  # bytes: GitHub loads no larger one
_SED = "sed -i 's|@your-organization/model-owners|@OWNER/TEAM|' .github/CODEOWNERS"


def owners(line: Line, target: Target, ask: Asker) -> Check:
    try:
        found = next(((path, data) for path in PLACES if (data := target.read(path)) is not None), None)
    except Refusal as refusal:
        return line.missing(refusal.what, refusal.todo)
    if found is None:
        return line.missing("there is none on the target branch", "git restore .github/CODEOWNERS, commit, push")
    path, data = found
    rules = parse(data[:_LONGEST].decode(errors="replace"))
    if any(owner.startswith(PLACEHOLDER) for _, names in rules for owner in names):
        return line.missing(f"{path}: the owner is still the placeholder, so nobody is asked", _SED)
    if bare := [file for file in GUARDED if not owner_of(rules, file)]:
        return line.missing(f"{path}: nobody owns {', '.join(bare)}", "give them an owner there, commit, push")
    errors = items(ask.one("codeowners/errors", "Contents: read"), "errors")
    if errors:
        first = errors[0]
        where = f"{path}, line {first.get('line')}" if isinstance(first.get("line"), int) else str(path)
        mend = "name people or teams who may write: gh api repos/{owner}/{repo}/codeowners/errors"
        return line.missing(f"{where}: {shown(word(first, 'kind'))}", mend)
    names = sorted({owner for file in GUARDED for owner in owner_of(rules, file)})
    return line.ok(shown(", ".join(names)))


def parse(text: str) -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    """Each line's pattern and owners."""
    rules = []
    for line in text.splitlines():
        pattern, *names = line.partition("#")[0].split() or [""]
        if pattern:
            rules.append((_compiled(pattern), tuple(names)))
    return rules


def owner_of(rules: list[tuple[re.Pattern[str], tuple[str, ...]]], file: str) -> tuple[str, ...]:
    """Who owns a file: the last pattern that matches it decides."""
    return next((names for pattern, names in reversed(rules) if pattern.fullmatch(file)), ())


def _compiled(pattern: str) -> re.Pattern[str]:
    """As .gitignore has it, but that `folder/*` holds no deeper file."""
    body = pattern.strip("/")
    anchored = "/" in pattern.rstrip("/")
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*+|\?)", body):
        match piece:
            case "**/":
                parts.append("(?:.*/)?")
            case "**":
                parts.append(".*")
            case "?":
                parts.append("[^/]")
            case _ if piece.startswith("*"):
                parts.append("[^/]*")
            case _:
                parts.append(re.escape(piece))
    within = "/.*" if pattern.endswith("/") and body else "" if body.endswith("/*") else "(?:/.*)?"
    return re.compile(("" if anchored else "(?:.*/)?") + "".join(parts) + within)
