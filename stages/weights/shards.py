"""Safetensors checkpoints: read by memory mapping, planned into shards, written as a stream.

A file is 8 bytes (little-endian length N), N bytes of JSON (tensor name to dtype, shape and ``data_offsets`` in the
data part, and ``__metadata__``) padded with spaces to a multiple of 8, then the tensors without gaps
(https://github.com/huggingface/safetensors#format). Reading maps the file, so a tensor uses page cache instead of
memory; writing takes a tensor piece by piece.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from checks.machine import disk
from checks.process.errors import EvidenceRefused

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ENTRY = 160  # bytes of a header entry, its name apart: dtype, up to six dimensions, two offsets
_FRAME = 64  # the length field, braces, metadata and padding


class Tensor(NamedTuple):
    """A tensor's description: name, safetensors dtype (``BF16``), shape, size in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class Shard(NamedTuple):
    """One file and its tensors, in the order of their data."""

    file: str
    tensors: tuple[Tensor, ...]


class Checkpoint:
    """The tensors of a directory with ``model.safetensors`` or an index; each is read on request."""

    def __init__(self, files: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._files = files  # tensor name to its open file
        self.tensors = tensors

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor, mapped from its file: do not write to it."""
        return self._files[name].get_tensor(name)


@contextmanager
def opened(folder: Path, single: str = SINGLE) -> Iterator[Checkpoint]:
    """Open every safetensors file of ``folder``.

    Raises EvidenceRefused if a file is missing, truncated or not safetensors, or if the index and the files disagree.
    """
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        tensors: dict[str, Tensor] = {}
        wanted = _index(folder)
        for file in sorted(set(wanted.values())) or [single]:
            path = folder / file
            try:
                stream = stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise EvidenceRefused(
                    f"{path}: not a whole safetensors file: {error}", "run `./lockstep run`"
                ) from error
            for name in stream.keys():  # noqa: SIM118 - not a mapping
                tensor = stream.get_tensor(name)
                dtype = stream.get_slice(name).get_dtype()
                files[name] = stream
                tensors[name] = Tensor(name, dtype, tuple(tensor.shape), tensor.nbytes)
                if wanted and wanted.get(name) != file:
                    raise EvidenceRefused(
                        f"{path}: {name} is not in {INDEX}",
                        "run `./lockstep run` to make both again",
                    )
        if missing := sorted(wanted.keys() - tensors.keys()):
            raise EvidenceRefused(
                f"{folder / INDEX}: {missing[0]} is not in {wanted[missing[0]]}",
                "run `./lockstep run` to make both again",
            )
        yield Checkpoint(files, tensors)


def plan(tensors: Iterable[Tensor], limit: int) -> tuple[Shard, ...]:
    """Distribute tensors over shards of at most ``limit`` bytes, header included; a larger tensor gets its own shard.

    Names are in natural order (layer 2 before layer 10), so that shards of layers that training did not change stay the
    same. Within a shard wider dtypes come first, so that every tensor is aligned.
    """
    groups: list[list[Tensor]] = []
    room = 0
    for tensor in sorted(
        tensors,
        key=lambda t: [
            (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", t.name)
        ],
    ):
        cost = tensor.nbytes + len(json.dumps(tensor.name)) + _ENTRY
        if not groups or cost > room:
            groups.append([])
            room = limit - _FRAME
        groups[-1].append(tensor)
        room -= cost
    names = (
        [SINGLE]
        if len(groups) == 1
        else [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    )
    return tuple(
        Shard(name, tuple(sorted(group, key=lambda t: -(t.nbytes // max(math.prod(t.shape), 1)))))
        for name, group in zip(names, groups, strict=True)
    )


def write(
    path: Path, tensors: Sequence[Tensor], pieces: Callable[[Tensor], Iterable[torch.Tensor]]
) -> None:
    """Write one file; ``pieces`` gives each tensor's data in order, in any number of parts."""
    with disk.writing(path), path.open("wb", buffering=0) as stream:
        _put(stream.fileno(), _header(tensors))
        for tensor in tensors:
            written = 0
            for piece in pieces(tensor):
                _put(stream.fileno(), piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                written += piece.nbytes
            if written != tensor.nbytes:
                raise ValueError(f"{tensor.name}: {written} bytes given, {tensor.nbytes} announced")


def index(shards: Sequence[Shard]) -> dict[str, Any]:
    """Return the index file of several shards, as transformers reads it."""
    weights = {tensor.name: shard.file for shard in shards for tensor in shard.tensors}
    size = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    return {"metadata": {"total_size": size}, "weight_map": dict(sorted(weights.items()))}


def _index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    if not path.exists():
        return {}
    try:
        weights = json.loads(path.read_text())["weight_map"]
        return {str(name): Path(file).name for name, file in weights.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceRefused(
            f"{path}: not an index of shards: {error!r}", "run `./lockstep run` to make it again"
        ) from error


def _header(tensors: Sequence[Tensor]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _put(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``; one system call writes at most 2 GiB."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
