"""Writes what MLflow reads of a release's version: a file MLmodel with the signature, and an example of a request.

MLflow reads both files at the source of a version, and cannot open an image. So they are artifacts of the training run,
in a folder named after the image, and that folder is the version's source. No weights are copied.
Format: https://mlflow.org/docs/latest/ml/model/#storage-format
"""

import json
import re
from collections.abc import Mapping

import yaml

# What every runtime serves, OpenAI's chat completions, as ``ModelSignature.from_dict`` of MLflow reads it.
_TURN = {
    "role": {"type": "string", "required": True},
    "content": {"type": "string", "required": True},
}
_CHOICE = {"message": {"type": "object", "properties": _TURN, "required": True}}
_INPUTS = (
    {
        "name": "messages",
        "type": "array",
        "items": {"type": "object", "properties": _TURN},
        "required": True,
    },
    {"name": "max_tokens", "type": "long", "required": False},
    {"name": "temperature", "type": "double", "required": False},
)
_OUTPUTS = (
    {
        "name": "choices",
        "type": "array",
        "items": {"type": "object", "properties": _CHOICE},
        "required": True,
    },
)
_SIGNATURE = {"inputs": json.dumps(_INPUTS), "outputs": json.dumps(_OUTPUTS), "params": None}
SIGNATURE = json.dumps(_SIGNATURE)
_EXAMPLE = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 16,
    "temperature": 0.0,
}
_FOLDER = "release"
# Artifacts of the server that is asked, or on a local disk. A bucket or another server never gets these files.
_WRITABLE = re.compile(r"(?:mlflow-artifacts:|file:(?://)?|[^:/]*)/(?!/)")


def folder(source: str) -> str:
    """Return the folder of an image (``oci://HOST/NAME@sha256:…``) among the artifacts of its run."""
    return f"{_FOLDER}/{re.sub(r'[^A-Za-z0-9._]+', '-', source)}"


def writable(root: str) -> bool:
    """Tell whether the two files are ever written below ``root``, the address of a run's artifacts."""
    return _WRITABLE.match(root) is not None


def about(source: str, run: str) -> str:
    """Return what a version's source is about: the folder of an image if it is one of ``run``, else the source itself.

    MLflow never changes source and run of a version, so both together say which image it is. A source outside of what
    is ``writable`` stands for itself: anyone who may write to the registry can name a bucket whose path ends alike.
    """
    _, separator, name = source.rpartition(f"/{run}/artifacts/{_FOLDER}/") if run else ("", "", "")
    return f"{_FOLDER}/{name}" if separator and "/" not in name and writable(source) else source


def files(source: str, run: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the two files by name. ``tags`` are those of the version: they become the model's metadata."""
    model = {
        "artifact_path": folder(source),
        "flavors": {"lockstep": {"image": source, "api": "/v1/chat/completions"}},
        "metadata": {key: value for key, value in tags.items() if value != SIGNATURE},
        "run_id": run,
        "saved_input_example_info": {"artifact_path": "input_example.json", "type": "json_object"},
        "signature": _SIGNATURE,
    }
    return {"MLmodel": yaml.safe_dump(model), "input_example.json": json.dumps(_EXAMPLE)}
