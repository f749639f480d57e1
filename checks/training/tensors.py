"""The sizes of a model's weights, from the headers of its safetensors files, without reading weights and without torch.

A file starts with eight bytes, the length of the header (little-endian), and the header: JSON with each tensor's dtype,
shape and place (https://huggingface.co/docs/safetensors). Layers are recognised by names such as ``model.layers.3.`` or
``h.3.``; all other tensors are embeddings, head and last norm.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.errors import EvidenceRefused
from checks.training.interface import Lora, Train

_LONGEST = 100_000_000  # bytes of a header, as the library itself allows
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,5})\.(.+)")
_FIX = "run `./lockstep run fetch`, or `./lockstep dvc checkout models/base`"


class Matrix(NamedTuple):
    """A two-dimensional weight in a layer. ``module``: its name below the layer; ``sides``: the sum of both lengths."""

    layer: int
    module: str
    sides: int


class Weights(NamedTuple):
    """The number of all parameters, of those in the ``layers`` layers, and the matrices that LoRA can adapt.

    ``each``: the number of parameters in each layer. ``outer``: those of each module outside the layers, by its name.
    """

    total: int
    inner: int
    layers: int
    matrices: tuple[Matrix, ...]
    each: tuple[int, ...]
    outer: Mapping[str, int]

    def trained(self, train: Train) -> int:
        """The number of parameters that learn: the adapter's, or the base's own."""
        if train.lora:
            return self.adapter(train.lora)
        return self.total if train.layers is None else sum(self.each[-train.layers :])

    def adapter(self, lora: Lora) -> int:
        """LoRA's parameters: rank times both sides of each adapted matrix; and modules that learn whole."""
        first = 0 if lora.layers is None else max(0, self.layers - lora.layers)
        adapted = (
            matrix.sides
            for matrix in self.matrices
            if matrix.layer >= first
            and (lora.targets == "all-linear" or any(_is_of(matrix.module, name) for name in lora.targets))
        )
        whole = {module for module in self.outer for name in lora.modules_to_save if _is_of(module, name)}
        if lora.modules_to_save and not whole and self.outer:  # a head that the file has as embeddings
            whole = {max(self.outer, key=lambda module: self.outer[module])}
        return lora.r * sum(adapted) + sum(self.outer[module] for module in whole)


def read(folder: Path) -> Weights:
    """The sizes of the model in ``folder``; raises EvidenceRefused if there is none or a header is invalid."""
    total, layers, matrices, outer = 0, dict[int, int](), list[Matrix](), dict[str, int]()
    for path in _files(folder):
        for name, shape in _shapes(path):
            count = math.prod(shape)
            total += count
            if match := _LAYER.search(name):
                layer = int(match[1])
                layers[layer] = layers.get(layer, 0) + count
                if len(shape) == 2:
                    matrices.append(Matrix(layer, match[2].removesuffix(".weight"), sum(shape)))
            else:
                outer[name.removesuffix(".weight")] = count
    if not total:
        raise EvidenceRefused(f"{folder}: its weights have no parameters", _FIX)
    # Where no layer is known by its name, the whole is taken for them.
    number = max(layers) + 1 if layers else 1
    counts = tuple(layers.get(layer, 0) for layer in range(number)) if layers else (total,)
    return Weights(total, sum(layers.values()) or total, number, tuple(matrices), counts, outer)


def _is_of(module: str, name: str) -> bool:
    """Whether params.yaml means the module by this name."""
    return module == name or module.endswith(f".{name}")


def names(folder: Path) -> frozenset[str]:
    """The names of the tensors of the model in ``folder``; raises as ``read``."""
    return frozenset(name for path in _files(folder) for name, _ in _shapes(path))


def layer_of(name: str) -> int | None:
    """The layer that a tensor of this name is in; None: it is in none."""
    return int(match[1]) if (match := _LAYER.search(name)) else None


def _files(folder: Path) -> list[Path]:
    """The weight files: those of the index, else the one with the usual name, else all."""
    try:
        if (folder / _INDEX).exists():
            names = {str(name) for name in json.loads((folder / _INDEX).read_bytes())["weight_map"].values()}
            if any("/" in name or name in ("", ".", "..") for name in names):
                raise ValueError("names a file elsewhere")
            return sorted(folder / name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvidenceRefused(f"{folder / _INDEX}: is not an index of weights", _FIX) from error
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    if paths := sorted(folder.glob("*.safetensors")):
        return paths
    raise EvidenceRefused(f"{folder}: holds no safetensors", _FIX)


def _shapes(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Each tensor's name and shape."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_LONGEST, path.stat().st_size - 8):
                raise ValueError("is cut, or no safetensors")
            header: Any = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                shape = entry["shape"]
                if not all(type(side) is int and 0 <= side < 1 << 48 for side in shape):
                    raise ValueError("has an invalid shape")
                yield name, shape
    except OSError as error:
        raise EvidenceRefused(f"{path}: {error.strerror or error}", _FIX) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EvidenceRefused(f"{path}: its header is not that of safetensors", _FIX) from error
