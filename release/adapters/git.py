"""One call of git: an argument list, a deadline, an environment in which nothing asks a person or runs a hook.

Hooks of this clone (``pre-push``, ``reference-transaction``) are not run: what is pushed is not the work tree that
they judge, and whoever pushes could leave them out. The remote's hooks and rules decide, and their words are shown.
Nothing opens a terminal or a window to ask for a password; credential helpers, SSH agents and GIT_ASKPASS work.

All of ``release`` asks git through here. The stages use GitPython, for what decides nothing: where the work tree lies,
and the commit that a run of MLflow is tagged with. Releases are decided on what is read here, and there GitPython 3.2
fails open, each time without an error: its processes take over GIT_DIR, as a hook of another repository sets it;
``Repo`` opens a bare repository that lies in the work tree as files; ``Git`` of a folder that is gone asks that of the
current directory; ``cat-file --batch`` that is killed gives the part of the object that came. It also reads no SHA-256
repository, and at a deadline ends git by SIGKILL, which leaves its lock files.
"""

import base64
import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.machine import disk
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.process.text import redact
from release.adapters import process
from release.adapters.registry import addresses

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
# How ``cat-file --batch`` begins the answer for an object that is here.
_HEADER = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (commit|tree|blob|tag) ([0-9]+)")


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


class Object(NamedTuple):
    """An object of git. ``name`` is its hash, ``kind`` commit, tree, blob or tag."""

    name: str
    kind: str
    data: bytes


def has_repository(root: Path) -> bool:
    """Whether ``root`` lies in a git work tree."""
    return any((folder / ".git").exists() for folder in (root, *root.resolve().parents))


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
        # Files of a work tree may look like a bare repository, which git would ask before the one that holds them.
        bare = f"safe.bareRepository={'explicit' if has_repository(folder) else 'all'}"
        options = [part for value in (*_CONFIG, bare) for part in ("-c", value)]
        try:
            done = process.run(
                ["git", *options, *args],
                given,
                self.deadline,
                cwd=folder,
                env=_environment(env or {}),
            )
        except OSError as error:
            todo = (
                "install git"
                if isinstance(error, FileNotFoundError)
                else "see to it, then run it again"
            )
            raise MachineRefused(f"git: {error.strerror}", todo) from error
        except subprocess.TimeoutExpired:
            return Said(None, b"", "")
        text = done.stderr.decode(errors="replace")
        if done.returncode and disk.said(_OF_REMOTE.sub("", text)):
            raise disk.refusal(f"git {args[0]}", [folder, self._home(folder)])
        return Said(done.returncode, done.stdout, text)

    def _home(self, folder: Path) -> Path:
        """The folder of the repository's objects: with a work tree apart it may lie on another disk."""
        answer = self.run("rev-parse", "--path-format=absolute", "--git-common-dir", at=folder)
        return Path(os.fsdecode(answer.out.rstrip(b"\n"))) if answer.code == 0 else folder

    def ask(self, *args: str, given: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        """Return what it prints. Raises EvidenceRefused when it fails."""
        answer = self.run(*args, given=given, env=env)
        if answer.code != 0:
            raise _refused(args[0], answer)
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
            raise _refused(args[0], answer)
        return None if answer.code else answer.out.decode(errors="surrogateescape").rstrip("\n")

    def config(self, name: str, *, kind: str = "") -> str | None:
        """A value of git's configuration; None when it is not set. Raises EvidenceRefused when it is no ``kind``."""
        return self.found("config", *([f"--type={kind}"] if kind else []), "--get", name)

    def object(self, name: str) -> Object | None:
        """Return what a name means, such as a hash or COMMIT:PATH; None when it is not here. Raises as ``read``."""
        return self.read([name])[0]

    def read(self, names: Sequence[str]) -> list[Object | None]:
        """Return what each name means; None for what is not here, or not one object. A link is a blob with its path.

        Raises EvidenceRefused when git cannot read here, or does not answer before the deadline; MachineRefused as
        ``run``.
        """
        if any(char in name for name in names for char in "\n\r\0"):
            raise EvidenceRefused(
                "the name of a file or folder has a line break", "rename it, and commit that"
            )
        given = "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
        out = self.ask("cat-file", "--batch", given=given) if names else b""
        return list(_answers(out, len(names)))

    def entries(self, *arguments: str) -> dict[str, Entry]:
        """Return what ``git ls-tree`` lists with these arguments, by path. Raises EvidenceRefused when it cannot."""
        answer = self.run("ls-tree", "-z", *arguments, env={"GIT_LITERAL_PATHSPECS": "1"})
        if answer.code != 0:
            tree = next(part for part in arguments if not part.startswith("-"))
            raise EvidenceRefused(
                f"tree {tree[:12]}: is damaged, or is not in this clone: {answer.why()}",
                "git fetch; if it stays so, fix the repository (a clone with its whole history)",
            )
        lines = answer.out.decode(errors="surrogateescape").split("\0")
        pairs = (line.partition("\t") for line in lines if line)
        return {path: Entry(*fields.split(" ")) for fields, _, path in pairs}

    def at(self, tree: str, paths: Iterable[str], *options: str) -> dict[str, Entry]:
        """Return what a commit or tree holds at these paths below ``root``, by path. Nothing lies below a link.

        ``options``: of ls-tree, such as --full-tree for paths from the top of the repository.
        """
        wanted = list(paths)
        listed = self.entries(*options, "-t", tree, "--", *wanted) if wanted else {}
        return {path: listed[path] for path in wanted if path in listed}

    def objects(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """The contents of many objects. Raises EvidenceRefused when one is not here."""
        wanted = list(dict.fromkeys(hashes))
        by_name = dict(zip(wanted, self.read(wanted), strict=True))
        for name, git_object in by_name.items():
            if git_object is None or git_object.name != name:
                raise EvidenceRefused(
                    f"object {name[:12]}: is not in this clone",
                    "git fetch; if it stays away, fix the repository (a clone with its whole history)",
                )
        return {name: git_object.data for name, git_object in by_name.items() if git_object}

    def named(self, names: Sequence[str]) -> list[bytes | None]:
        """The contents of what many names mean (such as COMMIT:PATH); None where there is no file.

        A link is read as the path that it holds.
        """
        return [
            git_object.data if git_object and git_object.kind == "blob" else None
            for git_object in self.read(names)
        ]


def _answers(out: bytes, count: int) -> Iterator[Object | None]:
    """Yield the objects that ``cat-file --batch`` printed for ``count`` names."""
    start = 0
    for _ in range(count):
        end = out.index(b"\n", start)
        header = _HEADER.fullmatch(out, start, end)
        start = end + 1
        if header:
            end = start + int(header[3])
            yield Object(header[1].decode(), header[2].decode(), out[start:end])
            start = end + 1
        else:  # Git says missing, ambiguous and the like.
            yield None


def _refused(verb: str, said: Said) -> EvidenceRefused:
    return EvidenceRefused(
        f"git {verb}: {said.why()}",
        "fix the repository (a clone with its whole history), then again",
    )


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    kept.setdefault("GIT_ALLOW_PROTOCOL", _PROTOCOLS)
    return {**kept, **login(kept), **_SET, **extra}


def login(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that make git log in; none outside of GitHub Actions, or without a token.

    So no job needs to leave a token in .git/config, and no argument, file or address ever holds it. It is sent to the
    server that the workflow runs on and to no other.

    LOCKSTEP_TOKEN is taken before GITHUB_TOKEN: a token that may push where the workflow's own may not.
    """
    token = environment.get("LOCKSTEP_TOKEN") or environment.get("GITHUB_TOKEN")
    server = (environment.get("GITHUB_SERVER_URL") or "https://github.com").rstrip("/")
    count = environment.get("GIT_CONFIG_COUNT", "0")
    if (
        environment.get("GITHUB_ACTIONS") != "true"
        or not token
        or not addresses.is_private_way(server)
        or not count.isdecimal()
    ):
        return {}
    login = base64.b64encode(b"x-access-token:" + os.fsencode(token)).decode()
    # The empty value takes away what was set before: actions/checkout sets the same header, and git would send both.
    values = [f"http.{server}/.extraheader"] * 2, ["", f"Authorization: Basic {login}"]
    named = dict[str, str]()
    for place, (key, value) in enumerate(zip(*values, strict=True), int(count)):
        named |= {f"GIT_CONFIG_KEY_{place}": key, f"GIT_CONFIG_VALUE_{place}": value}
    return {**named, "GIT_CONFIG_COUNT": str(int(count) + 2)}
