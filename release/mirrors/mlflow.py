"""MLflow as a mirror: a model version for each release, its lineage as tags, an alias for each environment.

Every store is reached through MLflow's own client, in a process of its own, which is killed at a deadline.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

import release
from checks.config.params import Params
from checks.formats.pointer import Pointer
from checks.formats.statement import Statement
from release.adapters import commits, process
from release.mirrors.compare import PREFIX, VERSION, ReleasedVersion, WantedModel
from release.mirrors.mlflow_client import SQLITE
from release.mirrors.mlmodel import SIGNATURE
from release.mirrors.types import MirrorFinding, MirrorUnavailable
from release.mirrors.worker import MirrorJob, MirrorResult

PRODUCTION, CHAMPION = "production", "champion"
# Of a release, beside its version: what is in the pointer, then what is in its evidence.
_OF_THE_POINTER = ("model", "commit", "evidence")
_OF_THE_EVIDENCE = ("verdict", "base", "raw", "adapter")


def address(root: Path, params: Params) -> str:
    """The URI of the store: MLFLOW_TRACKING_URI, else ``tracking.uri``; a relative path is below ``root``.

    It may contain a login: messages show it by ``redact``.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or params.tracking.uri
    path = uri.removeprefix(SQLITE)
    if path != uri and path and not path.startswith(("/", ":memory:")):
        uri = f"{SQLITE}{(root / path).resolve()}"
    elif ":" not in uri and uri != "databricks":
        uri = str((root / uri).resolve())
    return uri


def model_name(root: Path, params: Params) -> str:
    """Return the name of the registered model: `serve.name`, after the folders of a project below the git root.

    MLflow allows no slash in it.
    """
    return ".".join((*commits.prefix(root).parts, params.serve.name))


def version(pointer: Pointer, statement: Statement | None, run: str | None) -> ReleasedVersion:
    """Return the version that mirrors what ``pointer`` names. Without its statement, the lineage is not compared."""
    tags = {VERSION: pointer.version, f"{PREFIX}image": pointer.digest}
    tags |= {f"{PREFIX}{name}": getattr(pointer, name) for name in _OF_THE_POINTER}
    tags[f"{PREFIX}signature"] = SIGNATURE
    if statement is not None:
        made = statement.predicate.materials
        tags |= {f"{PREFIX}{name}": getattr(made, name) for name in _OF_THE_EVIDENCE}
        tags |= {f"{PREFIX}split.{name}": value for name, value in made.splits.items()}
    return ReleasedVersion(
        version=pointer.version, source=source(pointer.image), run=run, tags=tags
    )


def source(image: str) -> str:
    """Return an image as a URI, which MLflow accepts as the source of a model. KServe writes images as oci:// too.

    A folder is written as an absolute path, as MLflow requires; a folder relative to the repository has no host.
    """
    if not image.startswith("oci:"):
        return f"oci://{image}"
    folder = image.removeprefix("oci:")
    return image if folder.startswith("/") else f"oci:///{folder}"


def aliases(runs: Mapping[str, Pointer | None]) -> dict[str, str | None]:
    """Return the aliases of environments: their names, and for production also ``champion``."""
    sources = {
        name: None if pointer is None else source(pointer.image) for name, pointer in runs.items()
    }
    return sources | ({CHAMPION: sources[PRODUCTION]} if PRODUCTION in sources else {})


def ask(uri: str, wanted: WantedModel, fix: bool, seconds: float) -> list[MirrorFinding]:
    """Return how the store at ``uri`` differs from ``wanted``; with ``fix`` it is corrected.

    Raises MirrorUnavailable after ``seconds`` at the latest. If it is killed while fixing, a later run fixes the rest.
    """
    job = MirrorJob(uri=uri, wanted=wanted, fix=fix).model_dump_json().encode()
    # From the folder of this package: the repository may have other modules of its name.
    home = Path(release.__file__).parent.parent
    try:
        ran = process.run([sys.executable, "-m", "release.mirrors.worker"], job, seconds, cwd=home)
        done = MirrorResult.model_validate_json(ran.stdout)
    except OSError as error:
        raise MirrorUnavailable(f"cannot be asked: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise MirrorUnavailable(f"no answer within {seconds:g} s") from None
    except ValidationError:
        raise MirrorUnavailable(f"the process that asks it ended with {ran.returncode}") from None
    if done.trouble:
        raise MirrorUnavailable(done.trouble)
    return list(done.findings)
