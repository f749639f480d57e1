"""A model repository of the Hugging Face Hub, through huggingface_hub: the tree of a revision, one commit, one tag.

The address and the token of the hub come from the usual environment (HF_ENDPOINT, HF_TOKEN, a stored login).
The extra ``hub`` has huggingface_hub; it is imported where it is used, so that commands start fast.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from checks.process import distribution
from checks.process.errors import MachineRefused, RegistryRefused
from checks.process.text import redact

MAIN = "main"


class File(NamedTuple):
    """A file to publish: its bytes or where they are, and their SHA-256 (hexadecimal) and size."""

    content: bytes | Path
    sha256: str
    size: int

    def git_id(self) -> str:
        """The id of git's blob of the same bytes, by which the hub names files that are not large."""
        data = self.content.read_bytes() if isinstance(self.content, Path) else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Revision(NamedTuple):
    """A commit, and its files: path to (SHA-256 of a large file, else None; id of git's blob)."""

    commit: str
    files: Mapping[str, tuple[str | None, str]]

    def differences(self, wanted: Mapping[str, File]) -> list[str]:
        """The paths of ``wanted`` that are missing here or have other bytes."""
        return [path for path, file in wanted.items() if not self._has(path, file)]

    def _has(self, path: str, file: File) -> bool:
        if path not in self.files:
            return False
        large, blob = self.files[path]
        return file.sha256 == large if large else file.git_id() == blob


def library() -> Any:
    """Return the module huggingface_hub. Raises MachineRefused if it is not installed."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise MachineRefused(
            "huggingface_hub is not installed", distribution.install("hub")
        ) from error
    return huggingface_hub


class Hub:
    """The model repository ``name``, ORGANISATION/NAME. Methods raise RegistryRefused where it refuses or is silent."""

    def __init__(self, name: str) -> None:
        self._hub = library()
        self.name, self._api = name, self._hub.HfApi()
        self._hub.utils.disable_progress_bars()

    def has_token(self) -> bool:
        """Whether there is a token to write with."""
        return self._hub.get_token() is not None

    def revision(self, name: str = MAIN) -> Revision:
        """Return what a branch, tag or commit has."""
        with self._asked():
            commit = self._api.model_info(self.name, revision=name).sha
            listed = self._api.list_repo_tree(self.name, recursive=True, revision=commit)
            files = {
                entry.path: (entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
                for entry in listed
                if isinstance(entry, self._hub.hf_api.RepoFile)
            }
        return Revision(str(commit), files)

    def tags(self) -> dict[str, str]:
        """Each tag, and the commit that it is on."""
        with self._asked():
            return {tag.name: tag.target_commit for tag in self._api.list_repo_refs(self.name).tags}

    def commit(
        self, files: Mapping[str, File], gone: Sequence[str], message: str, parent: str
    ) -> str:
        """Add ``files`` and delete ``gone`` in one commit on ``parent``, which must be the head of main; its hash."""
        operations: list[Any] = [
            self._hub.CommitOperationAdd(
                path, file.content if isinstance(file.content, bytes) else str(file.content)
            )
            for path, file in files.items()
        ]
        operations += [self._hub.CommitOperationDelete(path) for path in gone]
        with self._asked():
            return str(
                self._api.create_commit(
                    self.name, operations, commit_message=message, parent_commit=parent
                ).oid
            )

    def tag(self, name: str, commit: str, message: str) -> None:
        """Put a new tag on ``commit``."""
        with self._asked():
            self._api.create_tag(self.name, tag=name, revision=commit, tag_message=message)

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        errors, repository = self._hub.errors, f"hf://{self.name}"
        try:
            yield
        except errors.RepositoryNotFoundError as error:
            raise RegistryRefused(
                f"{repository}: is not there, or this token may not see it",
                f"make it first, private or public as you want it: hf repos create {self.name}",
            ) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            todo = {
                401: "log in with a token that may write there: HF_TOKEN, or `hf auth login`",
                403: "use a token that may write there: HF_TOKEN, or `hf auth login`",
                409: "run it again", 412: "somebody else committed there: run it again",
            }.get(status, "run it again later")  # fmt: skip
            message = error.server_message or str(error).splitlines()[0]
            raise RegistryRefused(
                f"{repository}: HTTP {status}: {redact(message, 200)}", todo
            ) from error
        except (
            ValueError
        ) as error:  # huggingface_hub's word for metadata or files that the hub does not take
            why = redact(" ".join(str(error).split()), 300)
            raise RegistryRefused(
                f"{repository}: does not take it: {why}", "correct what it names"
            ) from error
        except Exception as error:  # its HTTP client and its transfer library raise anything
            why = redact(str(error) or type(error).__name__, 200)
            raise RegistryRefused(
                f"{repository}: does not answer: {why}", "check the network and HF_ENDPOINT"
            ) from error
