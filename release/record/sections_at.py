"""Sections of the params.yaml of a commit, each read by itself: the others may be of another version, or wrong."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from checks import files, layout, plain_yaml
from checks.errors import ParamsRefused
from checks.params import Serve
from release.adapters import commits

_T = TypeVar("_T", bound=BaseModel)


class _Served(BaseModel):
    serve: Serve


def read(root: Path, commit: str, kind: type[_T], where: str, todo: str) -> _T:
    """The sections that ``kind`` has. ``where`` is what messages call the file, ``todo`` what mends it.

    Raises ParamsRefused when they are anything else, or there is no such file; EvidenceRefused when it is a link.
    """
    data = commits.read(root, commit, layout.PARAMS)
    if data is None:
        raise ParamsRefused(f"{where}: is not there", todo)
    try:
        return kind.model_validate(plain_yaml.load(data.decode()))
    except ValidationError as error:
        raise ParamsRefused(f"{where}: {files.first(error).partition('|')[0]}", todo) from error
    except (ValueError, yaml.YAMLError) as error:
        raise ParamsRefused(f"{where}: is not YAML: {str(error).splitlines()[0]}", todo) from error


def serve(root: Path, commit: str) -> Serve:
    """How the model of a record is served. Raises as ``read``, and EvidenceRefused when the commit is not here."""
    where = f"{layout.PARAMS} at {commit[:12]}"
    return read(
        root, commit, _Served, where, "fetch the commit that made the model, and use the version that wrote it"
    ).serve
