"""One call of git: an argument list, a deadline, an environment in which nothing asks a person or runs a hook.

Hooks of this clone (``pre-push``, ``reference-transaction``) are not run: what is pushed is not the work tree that
they judge, and whoever pushes could leave them out. The remote's hooks and rules decide, and their words are shown.
Nothing opens a terminal or a window to ask for a password; credential helpers, SSH agents and GIT_ASKPASS work.

All of ``release`` asks git through here; objects come from a process that stays (``git_objects``). The stages use
GitPython, for what decides nothing: where the work tree lies, and the commit that a run of MLflow is tagged with.
Releases are decided on what is read here, and there GitPython 3.2 fails open, each time without an error: its processes
take over GIT_DIR, as a hook of another repository sets it; ``Repo`` opens a bare repository that lies in the work tree
as files; ``Git`` of a folder that is gone asks that of the current directory; ``cat-file --batch`` that is killed gives
the part of the object that came. It also reads no SHA-256 repository, and at a deadline ends git by SIGKILL, which
leaves its lock files.
"""

import functools
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.machine import disk
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.process.text import redact
from release.adapters import git_login, git_objects, process
from release.adapters.git_objects import Object

# A caller's own repository must not leak in: lockstep may run inside a hook. Of git's --local-env-vars all but those
# that carry configuration, by which CI hands over credentials; and what opens windows.
_DROPPED = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_OBJECT_DIRECTORY", "GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE", "GIT_REPLACE_REF_BASE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE",
    "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "SSH_ASKPASS",
)  # fmt: skip
_SET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GCM_INTERACTIVE": "never",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
}
_PROTOCOLS = "file:git:http:https:ssh"  # an address is data: `ext::` would be a program
_CONFIG = (
    "core.hooksPath=" + os.devnull, "core.quotePath=off", "core.askPass=", "core.fsmonitor=false", "gc.auto=0",
    "maintenance.auto=false", "log.showRoot=true", "log.follow=false", "log.showSignature=false",
    "i18n.commitEncoding=UTF-8", "i18n.logOutputEncoding=UTF-8", "push.recurseSubmodules=no",
    "core.filesRefLockTimeout=5000",
)  # fmt: skip
REGULAR = ("100644", "100755")  # modes of files that are no links
_OF_REMOTE = re.compile(r"^remote:.*$", re.MULTILINE)  # Lines that the other machine prints.
# How the command begins that git advises for a repository of another user.
_TRUST = "git config --global --add safe.directory"


class Said(NamedTuple):
    """The output of a call. ``code`` is None when it was ended at the deadline."""

    code: int | None
    out: bytes
    err: str

    def why(self) -> str:
        """The failure in one printable line, without credentials: the remote's words first, then git's."""
        if self.code is None:
            return "no answer before the deadline"
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        theirs = [
            line.removeprefix("remote:").strip() for line in lines if line.startswith("remote:")
        ]
        ours = [line for line in lines if line.startswith(("fatal:", "error:"))]
        reason = " ".join(line for line in theirs if line) or next(
            iter(ours or lines), f"git ended with {self.code}"
        )
        return redact(reason)

    def todo(self, otherwise: str) -> str:
        """Return git's own advice for a repository of another user, as in a container; else ``otherwise``."""
        lines = (line.strip() for line in self.err.splitlines())
        return next((redact(line) for line in lines if line.startswith(_TRUST)), otherwise)


def has_repository(root: Path) -> bool:
    """Whether ``root`` lies in a git work tree."""
    return git_objects.repository(root) is not None


class Entry(NamedTuple):
    """An entry of a tree. ``name`` is the hash of the object."""

    mode: str
    kind: str
    name: str

    @property
    def regular(self) -> bool:
        """Whether it is a file, and no link."""
        return self.mode in REGULAR


class Git(NamedTuple):
    """git in one repository. ``deadline`` is in seconds, for one call; None where nothing is asked of a remote."""

    root: Path
    deadline: float | None

    def run(
        self,
        *args: str,
        given: bytes = b"",
        env: Mapping[str, str] | None = None,
        at: Path | None = None,
    ) -> Said:
        """Run it in ``root``, or ``at``, with ``given`` on standard input.

        Raises MachineRefused when there is no git, or a disk of this machine is full.
        """
        folder = at or self.root
        command = [*self._command(folder), *args]
        try:
            done = process.run(
                command, given, self.deadline, cwd=folder, env=_environment(env or {})
            )
        except OSError as error:
            raise _absent(error) from error
        except subprocess.TimeoutExpired:
            return Said(None, b"", "")
        text = done.stderr.decode(errors="replace")
        if done.returncode and disk.said(_OF_REMOTE.sub("", text)):
            raise disk.refusal(f"git {_verb(args)}", [folder, self._home(folder)])
        return Said(done.returncode, done.stdout, text)

    @staticmethod
    def _command(folder: Path) -> list[str]:
        # Files of a work tree may look like a bare repository, which git would ask before the one that holds them.
        bare = f"safe.bareRepository={'explicit' if has_repository(folder) else 'all'}"
        return ["git", *(part for value in (*_CONFIG, bare) for part in ("-c", value))]

    def _home(self, folder: Path) -> Path:
        """The folder of the repository's objects: with a work tree apart it may lie on another disk."""
        answer = self.run("rev-parse", "--path-format=absolute", "--git-common-dir", at=folder)
        return Path(os.fsdecode(answer.out.rstrip(b"\n"))) if answer.code == 0 else folder

    def ask(self, *args: str, given: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        """Return what it prints. Raises EvidenceRefused when it fails."""
        answer = self.run(*args, given=given, env=env)
        if answer.code != 0:
            raise _refused(_verb(args), answer)
        return answer.out

    def line(self, *args: str, given: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        """The one line that it prints."""
        return self.ask(*args, given=given, env=env).decode(errors="surrogateescape").rstrip("\n")

    def says(self, *args: str, env: Mapping[str, str] | None = None) -> bool:
        """Whether it ends with 0 rather than 1. Raises EvidenceRefused when it ends otherwise."""
        return self.found(*args, env=env) is not None

    def found(self, *args: str, env: Mapping[str, str] | None = None) -> str | None:
        """The one line that it prints; None when it ends with 1, its way to say no. Raises as ``says``."""
        answer = self.run(*args, env=env)
        if answer.code not in (0, 1):
            raise _refused(_verb(args), answer)
        return None if answer.code else answer.out.decode(errors="surrogateescape").rstrip("\n")

    def config(self, name: str, *, kind: str = "") -> str | None:
        """A value of git's configuration; None when it is not set. Raises EvidenceRefused when it is no ``kind``."""
        return self.found("config", *([f"--type={kind}"] if kind else []), "--get", name)

    def prefix(self) -> str:
        """Return where the folder lies in the repository, such as ``projects/router/``; empty at its root.

        Raises as ``ask``.
        """
        return _prefix(self.root.absolute())

    def object(self, name: str) -> Object | None:
        """Return what a name means, such as a hash or COMMIT:PATH; None when it is not here. Raises as ``read``."""
        return self.read([name])[0]

    def read(self, names: Sequence[str]) -> list[Object | None]:
        """Return what each name means, by a process that stays. A link is a blob that holds the path.

        Raises EvidenceRefused when git cannot read here, or does not answer before the deadline; MachineRefused as
        ``run``.
        """
        if any(char in name for name in names for char in "\n\r\0"):
            raise EvidenceRefused(
                "the name of a file or folder has a line break", "rename it, and commit that"
            )
        command, environment = [*self._command(self.root), "cat-file", "--batch"], _environment({})
        try:
            return git_objects.read(command, self.root, environment, names, self.deadline)
        except TimeoutError:
            raise _refused("cat-file", Said(None, b"", "")) from None
        except OSError as error:
            raise _absent(error) from error
        except git_objects.EndedError as ended:
            raise _refused("cat-file", Said(-1, b"", ended.said)) from ended

    def below(self, name: str) -> dict[str, Entry]:
        """Return what lies in a folder and in those below it, by path; no folders. ``name`` as for ``tree``."""
        entries = dict[str, Entry]()
        for path, entry in self.tree(name).items():
            if entry.kind == "tree":
                entries |= {
                    f"{path}/{rest}": inner for rest, inner in self.below(entry.name).items()
                }
            else:
                entries[path] = entry
        return entries

    def at(self, name: str, paths: Iterable[str]) -> dict[str, Entry]:
        """Return what a tree holds at these paths, by path. Nothing lies below a link. ``name`` as for ``tree``.

        No path may have a part ``.`` or ``..``.
        """
        trees, entries = {"": self.tree(name)}, dict[str, Entry]()
        for path in paths:
            above, entry = "", None
            for part in path.split("/"):
                if above not in trees:
                    trees[above] = self.tree(entry.name) if entry and entry.kind == "tree" else {}
                entry = trees[above].get(part)
                above = f"{above}{part}/"
            if entry:
                entries[path] = entry
        return entries

    def objects(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """The contents of many objects. Raises EvidenceRefused when one is not here."""
        wanted = list(dict.fromkeys(hashes))
        by_name = dict(zip(wanted, self.read(wanted), strict=True))
        for name, git_object in by_name.items():
            if git_object is None or git_object.name != name:
                raise _missing(name)
        return {name: git_object.data for name, git_object in by_name.items() if git_object}

    def named(self, names: Sequence[str]) -> list[bytes | None]:
        """The contents of what many names mean (such as COMMIT:PATH); None where there is no file.

        A link is read as the path that it holds.
        """
        return [
            git_object.data if git_object and git_object.kind == "blob" else None
            for git_object in self.read(names)
        ]

    def tree(self, name: str) -> dict[str, Entry]:
        """Return what a folder holds, by name. ``name`` means a tree, such as COMMIT^{tree}.

        Raises EvidenceRefused when it is not here.
        """
        git_object = self.object(name)
        if git_object is None or git_object.kind != "tree":
            raise _missing(name)
        return dict(_entries(git_object))


def _entries(tree: Object) -> Iterator[tuple[str, Entry]]:
    """The entries of a tree with the modes that git takes them for. Raises EvidenceRefused when the tree is damaged."""
    rest, size = tree.data, len(tree.name) // 2  # The length of a hash in bytes.
    while rest:
        head, _, rest = rest.partition(b"\0")
        mode, _, name = head.partition(b" ")
        if not (mode.isdigit() and set(mode) <= set(b"01234567") and name and len(rest) >= size):
            raise EvidenceRefused(
                f"tree {tree.name[:12]}: is damaged", "fix the repository: git fsck says where"
            )
        yield name.decode(errors="surrogateescape"), Entry(*_kind(int(mode, 8)), rest[:size].hex())
        rest = rest[size:]


def _kind(mode: int) -> tuple[str, str]:
    """Mode and kind of an entry, as git reads old or odd modes."""
    if stat.S_ISREG(mode):
        return REGULAR[bool(mode & 0o100)], "blob"
    if stat.S_ISLNK(mode):
        return "120000", "blob"
    return ("040000", "tree") if stat.S_ISDIR(mode) else ("160000", "commit")


def _missing(name: str) -> EvidenceRefused:
    return EvidenceRefused(
        f"object {name[:12]}: is not in this clone",
        "git fetch; if it stays away, fix the repository (a clone with its whole history)",
    )


# No command moves the repository that it works in, so that each folder is asked about once.
@functools.cache
def _prefix(folder: Path) -> str:
    """Return what ``Git.prefix`` says of this folder."""
    return Git(folder, None).line("rev-parse", "--show-prefix")


def _verb(args: Sequence[str]) -> str:
    """Return the command of git among its arguments, which may begin with a setting: ``-c NAME=VALUE``."""
    return args[2] if args[0] == "-c" else args[0]


def _absent(error: OSError) -> MachineRefused:
    return MachineRefused(
        f"git: {error.strerror}",
        "install git" if isinstance(error, FileNotFoundError) else "see to it, then run it again",
    )


def _refused(verb: str, said: Said) -> EvidenceRefused:
    return EvidenceRefused(
        f"git {verb}: {said.why()}",
        said.todo("fix the repository (a clone with its whole history), then again"),
    )


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    kept.setdefault("GIT_ALLOW_PROTOCOL", _PROTOCOLS)
    return {**kept, **git_login.configured(kept), **_SET, **extra}
