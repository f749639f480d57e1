"""The answers of a record that git keeps, so that later models are compared with them where DVC has no remote.

Where a repository has the file ANSWERS, every run writes the model's answers to the test split into it, and DVC's list
of their folder beside it. A later run puts those of each reference model into DVC's cache, as if they came from a
remote: answers count only if the model's record names their digest.
"""

from collections.abc import Iterable
from pathlib import Path

from checks.storage import files, layout
from release.adapters import commits, projects
from release.record import folder_lists

ANSWERS = layout.REPORTS / "answers" / "candidate.jsonl"
_LIST = ANSWERS.with_name("predictions.dir")
PATHS = frozenset({ANSWERS, _LIST})


def keep(root: Path) -> None:
    """Write the answers of the last evaluation for git, if the repository keeps answers and they are here."""
    answers = root / layout.PREDICTIONS / ANSWERS.name
    if (root / ANSWERS).is_file() and answers.is_file():
        _write(root / ANSWERS, answers.read_bytes())
        _write(root / _LIST, folder_lists.list_of(answers.parent) or b"")


def bring(root: Path, references: Iterable[str]) -> None:
    """Put the answers that git has in the commits ``references`` into DVC's cache."""
    for commit in references:
        for path, data in commits.read_many(root, commit, sorted(PATHS)).items():
            if data:
                md5 = folder_lists.md5_of(data) + (path.suffix if path == _LIST else "")
                home = next(home for home in projects.homes(root) if (home / ".dvc").is_dir())
                _write(folder_lists.cache(home) / "files" / "md5" / md5[:2] / md5[2:], data)


def _write(path: Path, data: bytes) -> None:
    with files.replacing(path) as stream:
        stream.write(data)
