"""MLflow's model registry through its own client: servers, SQLite files, databases, and other stores of MLflow.

Only the worker imports this: MLflow takes seconds to load, and a store may never answer.
"""

import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from checks.process import imports
from checks.process.text import redact
from release.adapters import http
from release.mirrors import mlmodel
from release.mirrors.compare import Held, Model, order
from release.mirrors.types import MirrorUnavailable

_SQLITE = "sqlite:///"
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

    def read(self, name: str) -> Model | None:
        """Return the model with all its versions; None if there is no such model."""
        path = _file(self._uri)
        if path is not None and not path.exists():
            return None
        with self._asking() as client:
            try:
                model = client.get_registered_model(name)
            except _mlflow_exception() as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
            versions = sorted(self._versions(client, name), key=lambda held: order(held.number))
            return Model(
                tuple(versions), {alias: str(number) for alias, number in model.aliases.items()}
            )

    def has_run(self, run: str) -> bool:
        with self._asking() as client:
            try:
                client.get_run(run)
            except _mlflow_exception() as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise
            return True

    def make_model(self, name: str) -> None:
        path = _file(self._uri)
        if path is not None and not path.exists():
            with _saying(self._uri):
                _make(path)
        with self._asking() as client:
            client.create_registered_model(name)

    def make_version(self, name: str, source: str, run: str | None, tags: Mapping[str, str]) -> str:
        """Create a version with its tags; return its number.

        With a run whose artifacts can be written, the version's source is a folder there, with ``mlmodel.files``.
        """
        with self._asking() as client:
            place = self._write_mlmodel(client, source, run, tags) if run else None
            made = client.create_model_version(
                name, place or source, run_id=run, tags=dict(tags), await_creation_for=0
            )
            return str(made.version)

    def tag(self, name: str, number: str, key: str, value: str) -> None:
        with self._asking() as client:
            client.set_model_version_tag(name, number, key, value)

    def untag(self, name: str, number: str, key: str) -> None:
        with self._asking() as client:
            client.delete_model_version_tag(name, number, key)

    def alias(self, name: str, alias: str, number: str) -> None:
        with self._asking() as client:
            client.set_registered_model_alias(name, alias, number)

    def unalias(self, name: str, alias: str) -> None:
        with self._asking() as client:
            client.delete_registered_model_alias(name, alias)

    def _versions(self, client: Any, name: str) -> Iterator[Held]:
        token = None
        while True:
            page = client.search_model_versions(
                f"name='{name}'", max_results=_PAGE, page_token=token
            )
            for version in page:
                yield Held(
                    str(version.version),
                    version.source or "",
                    version.run_id or "",
                    dict(version.tags),
                )
            if not (token := page.token):
                return

    def _write_mlmodel(
        self, client: Any, source: str, run: str, tags: Mapping[str, str]
    ) -> str | None:
        """Write ``mlmodel.files`` among the run's artifacts and return their folder; None if that is not possible.

        A server passes them on, another store has them on a local disk. A bucket is not tried: without a login its
        client may wait longer than a promotion does for mirrors.
        """
        root, folder = str(client.get_run(run).info.artifact_uri), mlmodel.folder(source)
        is_server = self._uri.startswith(("http://", "https://"))
        if root.startswith(_PROXIED) != is_server or not mlmodel.writable(root):
            return None
        try:
            for name, text in mlmodel.files(source, run, tags).items():
                client.log_text(run, text, f"{folder}/{name}")
        except (OSError, _mlflow_exception()):
            return None
        return f"{root}/{folder}"

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        with _saying(self._uri):
            if self._client is None:
                with imports.uncollected():
                    from mlflow import MlflowClient

                    self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            yield self._client


def _mlflow_exception() -> type[Any]:
    from mlflow.exceptions import MlflowException

    kind: type[Any] = MlflowException
    return kind


@contextmanager
def _saying(uri: str) -> Iterator[None]:
    """Turn errors of the store into MirrorUnavailable, without the URI, which may contain a password."""
    try:
        yield
    except MirrorUnavailable:
        raise
    except ImportError as error:
        todo = "pip install -c constraints.txt -e '.[mlflow]' for a server, '.[pipeline]' for a file or a database"
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


def _file(uri: str) -> Path | None:
    return (
        Path(uri.removeprefix(_SQLITE))
        if uri.startswith(_SQLITE) and ":memory:" not in uri
        else None
    )


def _make(path: Path) -> None:
    """Create a store with its tables, and rename it when complete: MLflow needs many steps and may be killed."""
    with imports.uncollected():
        from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        MlflowClient(
            tracking_uri=f"{_SQLITE}{partial}", registry_uri=f"{_SQLITE}{partial}"
        ).search_registered_models()
        try:
            os.link(partial, path)
        except FileExistsError:
            return  # somebody else was first
    finally:
        partial.unlink(missing_ok=True)
