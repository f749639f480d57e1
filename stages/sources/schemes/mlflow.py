"""``mlflow://RUN/PATH``: a file or folder that an MLflow run logged as an artifact.

MLFLOW_TRACKING_URI says which MLflow is asked; MLflow's other variables hold the credentials. The pin is that of the
bytes: an artifact can be overwritten or deleted after its run.

A dataset that a run logged with ``mlflow.log_input`` is no source: MLflow stores where its rows were, not the rows, and
a digest of eight digits that covers the first 10,000 rows. That place is the source to name in params.yaml.
"""

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from checks.process import distribution
from checks.process.errors import MachineRefused, Refusal, SourceRefused
from checks.storage import layout
from stages.sources import uris
from stages.sources.location import Location, refused
from stages.tracking import store

_URI = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,255})/([^?#]+)")
_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Artifact(Location):
    """An artifact of a run."""

    kind = "mlflow"
    run: str
    path: str

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read the run's id and the path, both."""
        match = _URI.fullmatch(rest)
        if match is None or not uris.is_safe(match[2]):
            raise refused(
                uri,
                field,
                "is not mlflow://RUN/PATH",
                f"write the id of a run and the path of one of its artifacts; {_VARIABLE} has the server's address",
            )
        return cls(match[1], match[2])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """Bring the artifact below ``work``; return its path.

        Raises SourceRefused if there is no such run or artifact, MachineRefused if MLflow cannot be asked.
        """
        place = f"{layout.PARAMS}: {field}: run {self.run}"
        address = os.environ.get(_VARIABLE)
        if not address:
            example = "such as http://127.0.0.1:5000"
            raise MachineRefused(
                f"{place}: the variable {_VARIABLE} is not set", f"set it to an address, {example}"
            )
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        with distribution.needed(f"{place}: mlflow:// needs MLflow", "pipeline"):
            from mlflow import MlflowClient, artifacts
            from mlflow.exceptions import MlflowException
        with store.refusing(address), store.deadline():
            try:
                run = MlflowClient(tracking_uri=address).get_run(self.run)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise SourceRefused(
                    f"{place}: {store.public(address)} has no such run",
                    f"check its id, and that {_VARIABLE} is the address of its server",
                ) from error
        root = run.info.artifact_uri
        try:
            with store.deadline():
                listed = artifacts.list_artifacts(
                    artifact_uri=_below(root, posixpath.dirname(self.path)), tracking_uri=address
                )
            names = sorted(posixpath.basename(artifact.path) for artifact in listed)
            if self.name not in names:
                shown = ", ".join(name for name in names[:5] if uris.is_safe(name)) or "nothing"
                raise SourceRefused(
                    f"{place}: has no artifact {self.path}", f"there, it has {shown}"
                )
            return Path(
                artifacts.download_artifacts(
                    artifact_uri=_below(root, self.path),
                    dst_path=str(work / "content"),
                    tracking_uri=address,
                )
            ), False
        except Refusal:
            raise
        except Exception as error:  # each store of artifacts raises its own
            raise SourceRefused(
                f"{place}: {self.path}: {uris.reason(error, address)}",
                "check the server, the store of its artifacts and the credentials, then run it again",
            ) from error


def _below(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path}" if path else root
