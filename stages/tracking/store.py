"""The MLflow store: where it is, whether it answers, and its errors as refusals.

Where: MLFLOW_TRACKING_URI, else ``tracking.uri`` of params.yaml (a relative SQLite file lies below the repository).
No message holds a user or a password of a URI.
"""

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from checks.config.params import Tracking
from checks.machine import disk
from checks.process.errors import MachineRefused, Refusal
from checks.storage import layout

_DEADLINE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
# MLflow's page of the experiment then shows runs and charts first, not traces.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# The scheme of an address, and what SQLite says of a full disk.
_SQLITE, _FULL = ("sqlite:///", "database or disk is full")
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class Store(NamedTuple):
    """An open MLflow store: its client, the id of the experiment, and the address."""

    client: Any
    experiment: str
    uri: str


def address(tracking: Tracking, root: Path) -> str:
    """The store's URI: from the environment, else the parameters; a relative SQLite path is made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking.uri
    path = uri.removeprefix("sqlite:///")
    if path == uri or not path or path.startswith(("/", ":memory:")):
        return uri
    return f"sqlite:///{(root / path).resolve()}"


def public(uri: str) -> str:
    """The URI without user, password, query and fragment."""
    if uri.startswith("join://"):
        return " ".join(["join://", *map(public, uri.removeprefix("join://").split())])
    if uri.startswith(("hf://", "pypi://")):
        return uri  # there, what follows an @ is a revision
    bare = re.split(r"[?#]", re.sub(r"^([^:/]+://)[^/]*@", r"\1", uri), maxsplit=1)[0]
    try:
        _ = urlsplit(bare).port  # a password with a slash in it would be read as one
    except ValueError:
        return "(a URI that cannot be read)"
    return bare


def opened(tracking: Tracking, root: Path) -> Store:
    """Open the store and the experiment of params.yaml. Raises MachineRefused if that fails."""
    uri = address(tracking, root)
    # A stage calls nobody that it was not told to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    _probe(uri)
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with refusing(uri), deadline():
        client = MlflowClient(tracking_uri=uri)
        name = tracking.experiment
        if (known := client.get_experiment_by_name(name)) is not None:
            if known.lifecycle_stage == "deleted":
                raise MachineRefused(
                    f"tracking.experiment: {name!r} is deleted at {public(uri)}",
                    f"restore it with `mlflow experiments restore -x {known.experiment_id}`, or name another",
                )
            return Store(client, known.experiment_id, uri)
        local = (
            (root / layout.STATE / "mlartifacts").resolve().as_uri()
            if uri.startswith("sqlite:")
            else None
        )
        return Store(
            client, client.create_experiment(name, artifact_location=local, tags=_KIND), uri
        )


def _probe(uri: str) -> None:
    """Refuse a database that does not answer; MLflow itself would retry for minutes."""
    with refusing(uri):
        parts = urlsplit(uri)
        kind = parts.scheme.partition("+")[0]
        if kind == "sqlite":
            path = Path(uri.removeprefix(_SQLITE))
            path.parent.mkdir(parents=True, exist_ok=True)
            with sqlite3.connect(path, timeout=5) as connection:
                connection.execute("PRAGMA schema_version")
            connection.close()
        elif kind in _DATABASE_PORTS and parts.hostname:
            socket.create_connection(
                (parts.hostname, parts.port or _DATABASE_PORTS[kind]), timeout=5
            ).close()


@contextmanager
def deadline() -> Iterator[None]:
    """Few, short retries, unless the environment sets others: MLflow's defaults wait for many minutes."""
    added = [name for name in _DEADLINE if name not in os.environ]
    os.environ.update({name: _DEADLINE[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def refusing(uri: str) -> Iterator[None]:
    """Turn errors of the store into MachineRefused, without the URI's secrets."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        is_known = isinstance(error, (OSError, ValueError, ImportError, sqlite3.Error))
        if not is_known and type(error).__module__.split(".")[0] not in ("mlflow", "sqlalchemy"):
            raise
        raise _refusal(uri, error) from None


def _refusal(uri: str, error: Exception) -> MachineRefused:
    if uri.startswith(_SQLITE) and _FULL in str(error):
        return disk.of_file(Path(uri.removeprefix(_SQLITE)))
    lines = str(error).replace(uri, public(uri)).strip().splitlines() or [type(error).__name__]
    reason = re.sub(r"://[^\s/]*@", "://", lines[0])
    if password := _password(uri):
        reason = reason.replace(password, "…")
    return MachineRefused(
        f"MLflow at {public(uri)} does not answer: {reason[:300]}",
        f"start it, or set tracking.uri or MLFLOW_TRACKING_URI; sqlite:///{layout.STATE}/mlflow.db needs no server",
    )


def _password(uri: str) -> str | None:
    try:
        return urlsplit(uri).password
    except ValueError:
        return None
