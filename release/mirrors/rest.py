"""MLflow's model registry by its REST API, for servers: no MLflow is needed here, and none of its three seconds.

Source: https://mlflow.org/docs/latest/api_reference/rest-api.html, the endpoints below api/2.0/mlflow.
"""

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from checks.text import redact
from release.adapters import http
from release.mirrors.compare import Held, Model, order
from release.mirrors.types import MirrorUnavailable

_TIMES = (5, 30)  # seconds to connect, and between two reads; the caller ends what takes longer
_LARGEST = 64 << 20  # bytes of one answer
_PAGE, _PAGES = 1000, 100
_ABSENT = "RESOURCE_DOES_NOT_EXIST"


class Server:
    """The registry of a tracking server. Logins are MLflow's own: of the URI, else MLFLOW_TRACKING_TOKEN, else
    MLFLOW_TRACKING_USERNAME and _PASSWORD; so are the settings of TLS.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/api/2.0/mlflow"
        self._session = requests.Session()
        self._session.auth = _login(unquote(parts.username or ""), unquote(parts.password or ""))
        ca = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
        self._session.verify = ca or os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true"
        self._session.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")

    def read(self, name: str) -> Model | None:
        found = self._ask("GET", "registered-models/get", {"name": name}, absent=True)
        if found is None:
            return None
        aliases = {
            _text(each, "alias"): _text(each, "version")
            for each in _list(_object(found, "registered_model"), "aliases")
        }
        return Model(tuple(sorted(self._versions(name), key=lambda held: order(held.number))), aliases)

    def has_run(self, run: str) -> bool:
        return self._ask("GET", "runs/get", {"run_id": run}, absent=True) is not None

    def make_model(self, name: str) -> None:
        self._ask("POST", "registered-models/create", {"name": name})

    def make_version(self, name: str, source: str, run: str | None, tags: Mapping[str, str]) -> str:
        asked: dict[str, Any] = {"name": name, "source": source}
        asked["tags"] = [{"key": key, "value": value} for key, value in tags.items()]
        made = self._ask("POST", "model-versions/create", asked | ({"run_id": run} if run else {}))
        return _text(_object(made or {}, "model_version"), "version")

    def tag(self, name: str, number: str, key: str, value: str) -> None:
        self._ask("POST", "model-versions/set-tag", {"name": name, "version": number, "key": key, "value": value})

    def untag(self, name: str, number: str, key: str) -> None:
        self._ask("DELETE", "model-versions/delete-tag", {"name": name, "version": number, "key": key})

    def alias(self, name: str, alias: str, number: str) -> None:
        self._ask("POST", "registered-models/alias", {"name": name, "alias": alias, "version": number})

    def unalias(self, name: str, alias: str) -> None:
        self._ask("DELETE", "registered-models/alias", {"name": name, "alias": alias})

    def _versions(self, name: str) -> list[Held]:
        asked: dict[str, Any] = {"filter": f"name='{name}'", "max_results": _PAGE}
        versions = list[Held]()
        for _ in range(_PAGES):
            page = self._ask("GET", "model-versions/search", asked) or {}
            for each in _list(page, "model_versions"):
                tags = {_text(tag, "key"): _text(tag, "value") for tag in _list(each, "tags")}
                versions.append(Held(_text(each, "version"), _text(each, "source"), _text(each, "run_id"), tags))
            if not (token := _text(page, "next_page_token")):
                return versions
            asked["page_token"] = token
        raise MirrorUnavailable(f"lists more than {_PAGE * _PAGES:,} versions")

    def _ask(self, method: str, path: str, value: Mapping[str, Any], absent: bool = False) -> dict[str, Any] | None:
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
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        if status == 200:
            raise MirrorUnavailable(f"{path}: answers with no JSON object")
        said = answer if isinstance(answer, dict) else {}
        if absent and status == 404 and said.get("error_code") == _ABSENT:
            return None
        raise MirrorUnavailable(redact(f"{path}: {status} {said.get('message') or response.reason or ''}", 300))


def _login(name: str, password: str) -> "requests.auth.AuthBase | None":
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if not name and token:
        return http.Bearer(token)
    name = name or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    return requests.auth.HTTPBasicAuth(name.encode(), password.encode()) if name else None


def _object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    if not isinstance(found, dict):
        raise MirrorUnavailable(f"answers without {key}")
    return found


def _list(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise MirrorUnavailable(f"answers with something else than a list as {key}")
    return found


def _text(value: Mapping[str, Any], key: str) -> str:
    """A text; empty where there is none. Numbers of versions are texts in some answers and numbers in others."""
    found = value.get(key)
    return "" if found is None else str(found)
