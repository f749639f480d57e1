"""MLflow's model registry by its REST API, for servers: no MLflow is needed here, and none of its three seconds.

Source: https://mlflow.org/docs/latest/api_reference/rest-api.html, the endpoints below api/2.0/mlflow.
"""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from pydantic import BaseModel

from checks.text import redact
from release.adapters import http
from release.adapters.http import Text
from release.mirrors import mlmodel
from release.mirrors.compare import Held, Model, order
from release.mirrors.types import MirrorUnavailable

_TIMES = (5, 30)  # seconds to connect, and between two reads; the caller ends what takes longer
_LARGEST = 64 << 20  # bytes of one answer
_PAGE, _PAGES = 1000, 100
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_PROXIED = "mlflow-artifacts:/"  # artifacts that the server itself takes and gives


class _Tag(BaseModel):
    key: Text
    value: Text = ""


class _Version(BaseModel):
    version: Text
    source: Text = ""
    run_id: Text = ""
    tags: list[_Tag] = []


class _Alias(BaseModel):
    alias: Text
    version: Text


class _Model(BaseModel):
    aliases: list[_Alias] = []


class _Info(BaseModel):
    artifact_uri: Text = ""


class _Run(BaseModel):
    info: _Info = _Info()


class _Answer(BaseModel):
    """What is read of any answer; empty where it is an answer to something else."""

    error_code: Text = ""
    message: Text = ""
    registered_model: _Model | None = None
    model_version: _Version | None = None
    run: _Run | None = None
    model_versions: list[_Version] = []
    next_page_token: Text = ""


class Server:
    """The registry of a tracking server. Logins are MLflow's own: of the URI, else MLFLOW_TRACKING_TOKEN, else
    MLFLOW_TRACKING_USERNAME and _PASSWORD; so are the settings of TLS.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/api/2.0/mlflow"
        self._artifacts = f"{self._base}-artifacts/artifacts/"
        self._session = requests.Session()
        self._session.auth = _login(unquote(parts.username or ""), unquote(parts.password or ""))
        ca = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        self._session.verify = ca or os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true"
        self._session.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")

    def read(self, name: str) -> Model | None:
        found = self._ask("GET", "registered-models/get", {"name": name}, absent=True)
        if found is None:
            return None
        if found.registered_model is None:
            raise MirrorUnavailable("answers without registered_model")
        aliases = {each.alias: each.version for each in found.registered_model.aliases}
        return Model(tuple(sorted(self._versions(name), key=lambda held: order(held.number))), aliases)

    def has_run(self, run: str) -> bool:
        return self._ask("GET", "runs/get", {"run_id": run}, absent=True) is not None

    def make_model(self, name: str) -> None:
        self._ask("POST", "registered-models/create", {"name": name})

    def make_version(self, name: str, source: str, run: str | None, tags: Mapping[str, str]) -> str:
        place = self._write_mlmodel(source, run, tags) if run else None
        asked: dict[str, Any] = {"name": name, "source": place or source}
        asked["tags"] = [{"key": key, "value": value} for key, value in tags.items()]
        made = self._ask("POST", "model-versions/create", asked | ({"run_id": run} if run else {}))
        if not made or not made.model_version:
            raise MirrorUnavailable("answers without model_version")
        return made.model_version.version

    def tag(self, name: str, number: str, key: str, value: str) -> None:
        self._ask("POST", "model-versions/set-tag", {"name": name, "version": number, "key": key, "value": value})

    def untag(self, name: str, number: str, key: str) -> None:
        self._ask("DELETE", "model-versions/delete-tag", {"name": name, "version": number, "key": key})

    def alias(self, name: str, alias: str, number: str) -> None:
        self._ask("POST", "registered-models/alias", {"name": name, "alias": alias, "version": number})

    def unalias(self, name: str, alias: str) -> None:
        self._ask("DELETE", "registered-models/alias", {"name": name, "alias": alias})

    def _write_mlmodel(self, source: str, run: str, tags: Mapping[str, str]) -> str | None:
        """Write ``mlmodel.files`` among the run's artifacts and return their folder; None if the server is no proxy."""
        found = self._ask("GET", "runs/get", {"run_id": run})
        root = found.run.info.artifact_uri if found and found.run else ""
        if not (root.startswith(_PROXIED) and mlmodel.writable(root)):
            return None  # a bucket, to which the server does not pass uploads on
        place = f"{root}/{mlmodel.folder(source)}"
        for name, text in mlmodel.files(source, run, tags).items():
            address = self._artifacts + f"{place}/{name}".removeprefix(_PROXIED)
            try:
                done = self._session.put(address, text.encode(), timeout=_TIMES, allow_redirects=False)
            except (requests.RequestException, OSError) as error:
                raise MirrorUnavailable(http.reason(error, _TIMES)) from None
            if done.status_code != 200:
                return None
        return place

    def _versions(self, name: str) -> list[Held]:
        asked: dict[str, Any] = {"filter": f"name='{name}'", "max_results": _PAGE}
        versions = list[Held]()
        for _ in range(_PAGES):
            page = self._ask("GET", "model-versions/search", asked) or _Answer()
            for each in page.model_versions:
                tags = {tag.key: tag.value for tag in each.tags}
                versions.append(Held(each.version, each.source, each.run_id, tags))
            if not page.next_page_token:
                return versions
            asked["page_token"] = page.next_page_token
        raise MirrorUnavailable(f"lists more than {_PAGE * _PAGES:,} versions")

    def _ask(self, method: str, path: str, value: Mapping[str, Any], absent: bool = False) -> _Answer | None:
        """The answer; None where there is no such thing and ``absent``."""
        sent: dict[str, Any] = {"params": value} if method == "GET" else {"json": value}
        try:
            with self._session.request(
                method, f"{self._base}/{path}", timeout=_TIMES, allow_redirects=False, stream=True, **sent
            ) as response:
                data, status = http.body(response, _LARGEST), response.status_code
        except http.TooLarge as error:
            raise MirrorUnavailable(str(error)) from None
        except (requests.RequestException, OSError, ValueError) as error:
            raise MirrorUnavailable(http.reason(error, _TIMES)) from None
        answer = http.parsed(_Answer, data)
        if status == 200 and answer:
            return answer
        if status == 200:
            raise MirrorUnavailable(f"{path}: answers with no JSON object of MLflow's")
        if absent and status == 404 and answer and answer.error_code == _ABSENT:
            return None
        said = answer.message if answer else ""
        raise MirrorUnavailable(redact(f"{path}: {status} {said or response.reason or ''}", 300))


def _login(name: str, password: str) -> "requests.auth.AuthBase | None":
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if not name and token:
        return http.Bearer(token)
    name = name or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    return requests.auth.HTTPBasicAuth(name.encode(), password.encode()) if name else None
