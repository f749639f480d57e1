"""MLflow's model registry through its own client: servers, SQLite files, databases, and other stores of MLflow.

Only the worker imports this: MLflow takes seconds to load, and a store may never answer.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from checks.process import distribution
from checks.process.text import redact
from release.adapters import http
from release.mirrors import mlmodel
from release.mirrors.compare import RegisteredModel, RegisteredVersion, ReleasedVersion, order
from release.mirrors.types import MirrorUnavailable

SQLITE = "sqlite:///"
_PROXIED = "mlflow-artifacts:"  # Artifacts that a server itself takes and gives.
_PAGE = 1000
_TIMES = (5, 5)  # Seconds to connect, and between two reads.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_TIMES[0]),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}


class ModelRegistry:
    """The registry behind a URI. A missing SQLite file counts as empty and is created by the first write.

    Logins and TLS are MLflow's own settings. Every method raises MirrorUnavailable if the store refuses or does not
    answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)

    def read(self, name: str) -> RegisteredModel | None:
        """Return the model with all its versions; None if there is no such model."""
        if is_absent(self._uri):
            return None
        with self.asking() as client:
            model = _unless_missing(lambda: client.get_registered_model(name))
            if model is None:
                return None
            versions = sorted(self._versions(client, name), key=lambda held: order(held.number))
            return RegisteredModel(
                tuple(versions), {alias: str(number) for alias, number in model.aliases.items()}
            )

    def make_model(self, name: str) -> None:
        """Register the model; in a SQLite file that is made first if it is missing."""
        if is_absent(self._uri):
            with _saying(self._uri):
                _make(Path(self._uri.removeprefix(SQLITE)))
        with self.asking() as client:
            client.create_registered_model(name)

    def make_version(self, client: Any, name: str, release: ReleasedVersion) -> str:
        """Create the version of a release with its tags; return its number.

        With a run whose artifacts can be written, the version's source is a folder there, with ``mlmodel.files``.
        """
        run = release.run and _unless_missing(lambda: client.get_run(release.run))
        place = self._write_mlmodel(client, release, run.info) if run else None
        made = client.create_model_version(
            name,
            place or release.source,
            run_id=release.run if run else None,
            tags=dict(release.tags),
            await_creation_for=0,
        )
        return str(made.version)

    def _versions(self, client: Any, name: str) -> Iterator[RegisteredVersion]:
        token = None
        while True:
            page = client.search_model_versions(
                f"name='{name}'", max_results=_PAGE, page_token=token
            )
            for version in page:
                yield RegisteredVersion(
                    str(version.version),
                    version.source or "",
                    version.run_id or "",
                    dict(version.tags),
                )
            if not (token := page.token):
                return

    def _write_mlmodel(self, client: Any, release: ReleasedVersion, run: Any) -> str | None:
        """Write ``mlmodel.files`` among the run's artifacts and return their folder; None if that is not possible.

        A server passes them on, another store has them on a local disk. A bucket is not tried: without a login its
        client may wait longer than a promotion does for mirrors.
        """
        root, folder = str(run.artifact_uri), mlmodel.folder(release.source)
        is_server = self._uri.startswith(("http://", "https://"))
        if root.startswith(_PROXIED) != is_server or not mlmodel.writable(root):
            return None
        from mlflow.exceptions import MlflowException

        try:
            for name, text in mlmodel.files(release.source, run.run_id, release.tags).items():
                client.log_text(run.run_id, text, f"{folder}/{name}")
        except (OSError, MlflowException):
            return None
        return f"{root}/{folder}"

    @contextmanager
    def asking(self) -> Iterator[Any]:
        """MLflow's client; its errors become MirrorUnavailable."""
        with _saying(self._uri):
            if self._client is None:
                from mlflow import MlflowClient

                self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            yield self._client


def _unless_missing(ask: Callable[[], Any]) -> Any:
    """Return what the store answers; None if it has no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


@contextmanager
def _saying(uri: str) -> Iterator[None]:
    """Turn errors of the store into MirrorUnavailable, without the URI, which may contain a password."""
    try:
        yield
    except MirrorUnavailable:
        raise
    except ImportError as error:
        todo = f"{distribution.install('mlflow')}; for a file or a database, the extra pipeline"
        raise MirrorUnavailable(
            f"needs MLflow, which is not installed here ({todo}): {redact(str(error), 100)}"
        ) from None
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in (
            "mlflow",
            "sqlalchemy",
        ):
            raise
        # MLflow raises its own error while it handles that of the connection.
        cause = error.__context__
        if isinstance(cause, requests.ConnectionError | requests.Timeout):
            raise MirrorUnavailable(http.reason(cause, _TIMES)) from None
        first = next(
            iter(str(error).replace(uri, "the store").strip().splitlines()), type(error).__name__
        )
        raise MirrorUnavailable(redact(first, 300)) from None


def is_absent(uri: str) -> bool:
    """Whether it is a SQLite file that does not exist, as in a clone in which nothing was run: it mirrors nothing."""
    path = uri.removeprefix(SQLITE)
    return path != uri and ":memory:" not in path and not Path(path).exists()


def _make(path: Path) -> None:
    """Create a store with its tables, and rename it when complete: MLflow needs many steps and may be killed."""
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        MlflowClient(
            tracking_uri=f"{SQLITE}{partial}", registry_uri=f"{SQLITE}{partial}"
        ).search_registered_models()
        with suppress(FileExistsError):  # somebody else was first
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
