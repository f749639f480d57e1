"""Checkpoints of a training that may be killed. Each is complete, and belongs to exactly one training.

``.lockstep/checkpoints/<key>/step-N`` has what the trainer saved at step N and a manifest, written last, with the
digest of each file; the folder gets this name when it is complete. ``<key>`` is the digest of everything that
determines the training, so that no other training resumes from it. Only the newest checkpoint is kept, here and on the
DVC remote.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError
from tqdm import tqdm

from checks.formats.training_reports import MergedFile
from checks.process.errors import EvidenceRefused, MachineRefused, ParamsRefused, RemoteRefused
from checks.records.record import Consistent, Digest
from checks.records.rows import Record
from checks.storage import digest, files, layout
from stages.training.remote import Remote, Upload

# Minutes of wall time between two checkpoints. With 0, none is taken and none is used.
MINUTES = "LOCKSTEP_CHECKPOINT_MINUTES"
MANIFEST, PROGRESS = "manifest.json", "progress.json"
HERE, THERE = "this machine", "the remote"
FOLDER = layout.STATE / "checkpoints"
_MINUTES = 5.0
_NOT_NEGATIVE = TypeAdapter[float](Annotated[float, Field(ge=0, allow_inf_nan=False)])
Known = TypeVar("Known")

# The only files of a checkpoint that are read; others could be the weights of a whole model.
Name = Literal[
    "adapter_config.json",
    "adapter_model.safetensors",
    "best.safetensors",
    "optimizer.pt",
    "progress.json",
    "quantization.json",
    "rng_state.pth",
    "scaler.pt",
    "scheduler.pt",
    "trained_weights.safetensors",
    "trainer_state.json",
]
_NAMES: frozenset[str] = frozenset(get_args(Name))
_ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
_OWN = {"trained_weights.safetensors"}  # The base's own weights, in place of an adapter.
# Written with early stopping, a quantised base, and fp16.
_OPTIONAL = {"best.safetensors", "quantization.json", "scaler.pt"}
_FINISHED = frozenset({*_ADAPTER, "progress.json"})
_OfRank = Annotated[str, Field(pattern=r"^rng_state_[0-9]{1,4}\.pth$")]
_RANDOM = "rng_state.pth"  # The state of one process.
# Takes the place of optimizer.pt where the base is divided.
_Sharded = Literal["optimizer.bin", "pytorch_model_fsdp.bin"]


class Manifest(Record, Consistent):
    """A complete checkpoint: its training, step and files.

    ``ranks``: the number of processes that train; ``sharded``: whether the base is divided among them.
    ``finished``: it is what a step of several left (``stages.training.chain``), and no trainer goes on from it.
    """

    schema_version: Literal[1] = 1
    key: Digest
    step: Annotated[int, Field(ge=1)]
    ranks: Annotated[int, Field(ge=1)] = 1
    sharded: bool = False
    files: dict[Name | _OfRank | _Sharded, MergedFile]
    finished: bool = False

    def contradictions(self) -> Iterator[str]:
        """Yield each missing file. The first one refuses the value."""
        needed = _FINISHED if self.finished else _names(self.ranks, self.sharded) - _OPTIONAL
        needed -= _ADAPTER if self.files.keys() & _OWN else _OWN
        return (f"names no {name}" for name in sorted(needed - self.files.keys()))

    @property
    def folder(self) -> str:
        """Return the folder's name on a remote; two checkpoints of one step never have the same."""
        return f"step-{self.step}-{digest.of_json(self.model_dump(mode='json'))[7:23]}"


class Found(NamedTuple, Generic[Known]):
    """A complete checkpoint in a local folder; ``where`` says where it was found, ``known`` is its content."""

    folder: Path
    step: int
    where: str
    known: Known


class Store:
    """The checkpoints of one training. No method raises: a failure is printed on one line, and training continues."""

    def __init__(
        self,
        home: Path,
        key: str,
        scratch: Path,
        remote: Remote | None,
        ranks: int = 1,
        sharded: bool = False,
    ) -> None:
        self.scratch = scratch  # on the file system of ``home``; gone when the training ends
        self.remote = remote
        self.key = key
        self._home, self._ranks, self._sharded = home, ranks, sharded
        self._upload = Upload(say)

    def newest(self, read: Callable[[Path, int], Known]) -> Found[Known] | None:
        """Return the newest complete checkpoint, from this machine or the remote, in a local folder.

        ``read`` gets the folder and the step, and raises EvidenceRefused if training cannot resume from it. Checkpoints
        that are skipped are reported, and deleted if they are local.
        """
        for place, manifest, folder in sorted(
            self._candidates(), key=lambda c: (-c[1].step, c[0] == THERE)
        ):
            try:
                if place == THERE:
                    folder = self._fetched(manifest)
                _refuse_other_bytes(folder, manifest)
                return Found(folder, manifest.step, place, read(folder, manifest.step))
            except (EvidenceRefused, RemoteRefused) as refusal:
                self._pass_over(place, refusal.what, folder)
        return None

    def keep(self, folder: Path, step: int, progress: str, finished: bool = False) -> None:
        """Store what the trainer saved in ``folder``, with ``progress`` as JSON; upload it while training continues."""
        try:
            (folder / PROGRESS).write_text(progress)
            for path in folder.iterdir():
                if path.name not in _names(self._ranks, self._sharded):
                    path.unlink()
            manifest = Manifest(
                key=self.key, step=step, ranks=self._ranks, sharded=self._sharded, files=_digests(folder),
                finished=finished,
            )  # fmt: skip
            files.write_json(folder / MANIFEST, manifest)
            target = self._home / f"step-{step}"
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
        except (OSError, ValueError, EvidenceRefused) as error:
            say(f"the checkpoint of step {step} is not kept: {_reason(error)}")
            return
        if self.remote is not None and not self._upload.busy:
            self._upload.start(self.remote, target, step, manifest.folder, [*manifest.files])
        for other in self._home.glob("step-*"):
            if other not in (target, self._upload.folder):
                shutil.rmtree(other, ignore_errors=True)

    def remove(self) -> None:
        """Delete all checkpoints, here and on the remote, after training is done."""
        if self.remote is not None:
            if self._upload.ended():
                try:
                    self.remote.remove()
                except RemoteRefused as refusal:
                    say(f"the checkpoints on the remote are not removed: {refusal.what}")
            else:
                say("an upload does not end: a checkpoint may be left on the remote")
        shutil.rmtree(self._home, ignore_errors=True)

    def _candidates(self) -> Iterator[tuple[str, Manifest, Path]]:
        for folder in self._home.glob("step-*"):
            try:
                yield HERE, self._of_this_training(folder / MANIFEST), folder
            except EvidenceRefused as refusal:
                self._pass_over(HERE, refusal.what, folder)
        if self.remote is None:
            return
        copy = self.scratch / MANIFEST
        try:
            if self.remote.manifest(copy):
                manifest = self._of_this_training(copy)
                self.remote.newest = manifest.folder
                yield THERE, manifest, self.scratch / "fetched"
        except (EvidenceRefused, RemoteRefused) as refusal:
            self._pass_over(THERE, refusal.what, copy)

    def _of_this_training(self, path: Path) -> Manifest:
        manifest = files.read_json(path, Manifest)
        if (manifest.key, manifest.ranks, manifest.sharded) != (
            self.key,
            self._ranks,
            self._sharded,
        ):
            raise EvidenceRefused(f"{MANIFEST} is of another training", "start from the beginning")
        return manifest

    def _fetched(self, manifest: Manifest) -> Path:
        """Bring the remote's checkpoint; its folder here takes its name when its bytes are the named ones."""
        assert self.remote is not None
        folder = self.scratch / "fetched"
        folder.mkdir()
        self.remote.fetch(manifest.folder, manifest.files, folder)
        files.write_json(folder / MANIFEST, manifest)
        target = self._home / f"step-{manifest.step}"
        shutil.rmtree(target, ignore_errors=True)
        return folder.rename(target)

    def _pass_over(self, place: str, why: str, path: Path) -> None:
        say(f"a checkpoint of {place} is passed over: {why}")
        shutil.rmtree(path, ignore_errors=True)


def minutes() -> float:
    """Return minutes between checkpoints, from the environment; raises ParamsRefused if that is not a valid number."""
    text = os.environ.get(MINUTES) or str(_MINUTES)
    try:
        return _NOT_NEGATIVE.validate_python(text)
    except ValidationError as error:
        raise ParamsRefused(
            f"{MINUTES}: {text!r} is not a number of minutes",
            "set it to 5, say, or to 0 for no checkpoints",
        ) from error


def key(of: Mapping[str, Any], modules: tuple[Path, ...]) -> str:
    """Return the digest of everything that determines a training: values, and the bytes of the modules that train."""
    return digest.of_json(
        {**of, "modules": {path.name: digest.of_file(path).sha256 for path in modules}}
    )


@contextmanager
def opened(root: Path, key: str, kept: bool) -> Iterator[Store]:
    """Yield the checkpoints of the training ``key``, also those on the DVC remote if LOCKSTEP_REMOTE is set.

    Without ``kept`` there are none. Raises MachineRefused if they cannot be stored on this machine.
    """
    if not kept:
        with tempfile.TemporaryDirectory() as scratch:
            yield Store(Path(scratch) / "none", key, Path(scratch), None)
        return
    home = _home(root, key)
    try:
        home.mkdir(parents=True, exist_ok=True)
        for litter in home.glob(".*"):  # A killed training leaves them.
            shutil.rmtree(litter, ignore_errors=True)
        room = tempfile.TemporaryDirectory(dir=home, prefix=".", ignore_cleanup_errors=True)
    except OSError as error:
        raise MachineRefused(
            f"{home}: {error.strerror or error}",
            f"make {FOLDER} a folder that can be written, or set {MINUTES}=0",
        ) from error
    with room:
        yield Store(home, key, Path(room.name), _remote(root, home))


def joined(root: Path, key: str, kept: bool, scratch: Path, ranks: int, sharded: bool) -> Store:
    """Return the store that another process has ``opened``, for rank 0 of so many, with the same ``scratch``."""
    if not kept:
        return Store(scratch / "none", key, scratch, None, ranks, sharded)
    home = _home(root, key)
    return Store(home, key, scratch, _remote(root, home), ranks, sharded)


def of_ranks(ranks: int) -> list[str]:
    """Return the names of the files with the random states of so many ranks."""
    return [f"rng_state_{rank}.pth" for rank in range(ranks)]


def _names(ranks: int, sharded: bool) -> frozenset[str]:
    names = _NAMES if ranks == 1 else (_NAMES - {_RANDOM}).union(of_ranks(ranks))
    return (names - {"optimizer.pt"}).union(get_args(_Sharded)) if sharded else names


def _home(root: Path, key: str) -> Path:
    return root / FOLDER / key.removeprefix("sha256:")


def _remote(root: Path, home: Path) -> Remote | None:
    try:
        return Remote.of(root, f"lockstep/checkpoints/{home.name}")
    except RemoteRefused as refusal:
        say(f"no checkpoint is taken from the remote or kept there: {refusal.what}")
        return None


def say(line: str) -> None:
    """Print one line to standard error, above the progress bar."""
    tqdm.write(f"train: {line}", file=sys.stderr)


def _digests(folder: Path) -> dict[Any, MergedFile]:
    digests = {path.name: digest.of_file(path) for path in sorted(folder.iterdir())}
    return {name: MergedFile(sha256=file.sha256, size=file.size) for name, file in digests.items()}


def _refuse_other_bytes(folder: Path, manifest: Manifest) -> None:
    """Raise EvidenceRefused unless every file exists with the bytes in the manifest."""
    for name, kept in manifest.files.items():
        actual = digest.of_file(folder / name)
        if (actual.sha256, actual.size) != (kept.sha256, kept.size):
            raise EvidenceRefused(
                f"step {manifest.step}: {name} has {actual.size} bytes, not the {kept.size} of its manifest"
                if actual.size != kept.size
                else f"step {manifest.step}: {name} has other bytes than its manifest names",
                "start from the beginning",
            )


def _reason(error: Exception) -> str:
    if isinstance(error, EvidenceRefused):
        return error.what
    if isinstance(error, ValidationError):
        return files.first(error)
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
