"""A stand-in of the Hugging Face Hub's API for one model repository: what huggingface_hub asks when it commits and tags.

It refuses what the hub refuses: no token, a token that may only read, another parent than the head, metadata that is not
valid, a large file that was not uploaded or whose bytes are not those of its digest, a file that is not there, a tag
that exists.
"""

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.http_standin import Handler, StandIn

REPOSITORY = "team/router"
WRITER, READER = "hf_writer", "hf_reader"
_LICENSES = ("apache-2.0", "mit", "other")


class HubStandIn(StandIn):
    """``commits``: the trees, oldest first, path to (bytes, whether it is a large file)."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        first = {".gitattributes": (b"*.safetensors filter=lfs\n", False), "old-00001.safetensors": (b"old", True)}
        self.commits: dict[str, dict[str, tuple[bytes, bool]]] = {"0" * 40: first}
        self.tags: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.spoils: str | None = None  # a path of which it keeps other bytes than it was sent
        self.outrun = False  # somebody commits before the next commit
        self.asked: list[str] = []

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def add(self, tree: dict[str, tuple[bytes, bool]]) -> str:
        name = hashlib.sha1(repr((self.head, sorted(tree))).encode()).hexdigest()
        self.commits[name] = tree
        return name


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(Handler):
    server: HubStandIn
    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        body, token = self.body(), self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path.startswith("/upload/"):  # its address is its permission
            self._upload(path.removeprefix("/upload/"), body)
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif not path.startswith((f"/api/models/{REPOSITORY}/", f"/{REPOSITORY}.git/")):
            self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif token not in (WRITER, READER):
            self.reply(401, {"error": "Invalid username or password."})
        elif self.command == "POST" and token != WRITER:
            self.reply(403, {"error": "Forbidden: pass a token that may write"})
        else:
            self._of_repository(path.removeprefix(f"/api/models/{REPOSITORY}/"), body)

    do_GET = do_POST = do_PUT = serve

    def _of_repository(self, path: str, body: bytes) -> None:
        hub = self.server
        verb, _, rest = path.partition("/")
        if verb == "refs":
            tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in hub.tags.items()]
            self.reply(200, {"branches": [], "converts": [], "tags": tags})
        elif verb in ("revision", "tree"):
            commit = hub.tags.get(rest, hub.head if rest == "main" else rest)
            if commit not in hub.commits:
                self.reply(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            elif verb == "revision":
                self.reply(200, {"id": REPOSITORY, "sha": commit, "siblings": []})
            else:
                self.reply(200, [self._entry(name, *file) for name, file in hub.commits[commit].items()])
        elif verb == "preupload":
            self.reply(200, {"files": [self._how(file["path"]) for file in json.loads(body)["files"]]})
        elif path.endswith("/objects/batch"):
            self.reply(200, {"transfer": "basic", "objects": [
                each if each["oid"] in hub.large else each | {"actions": {"upload": {"href": f"{hub.url}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]})  # fmt: skip
        elif verb == "commit":
            self._commit([json.loads(line) for line in body.splitlines()])
        elif verb == "tag":
            name = json.loads(body)["tag"]
            if name in hub.tags:
                self.reply(409, {"error": "Tag already exists"})
                return
            hub.tags[name] = rest
            self.reply(200, {})
        else:
            self.reply(404, {"error": path})

    def _how(self, path: str) -> dict[str, Any]:
        """How a file is to be sent, and the digest of the one that is there."""
        data, large = self.server.commits[self.server.head].get(path, (None, path.endswith(".safetensors")))
        oid = None if data is None else hashlib.sha256(data).hexdigest() if large else _blob(data)
        return {"path": path, "shouldIgnore": False, "oid": oid, "uploadMode": "lfs" if large else "regular"}

    def _entry(self, name: str, data: bytes, large: bool) -> dict[str, Any]:
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"type": "file", "path": name, "size": len(data), "oid": _blob(data), **({"lfs": lfs} if large else {})}

    def _upload(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.reply(400, {"error": "other bytes than their digest"})
            return
        self.server.large[oid] = body
        self.reply(200)

    def _validate(self, content: str) -> None:
        """As the hub: front matter that is YAML, a licence that it knows, results that have a task and a value."""
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        front = yaml.safe_load(found[1]) if found else None
        errors = [] if isinstance(front, dict) else ["no metadata"]
        if isinstance(front, dict):
            if front.get("license") not in _LICENSES:
                errors.append('"license" must be one of [apache-2.0, mit, other]')
            if front.get("license") == "other" and not front.get("license_name"):
                errors.append('"license_name" is required')
            for model in front.get("model-index", []):
                for result in model["results"]:
                    if not result["task"].get("type") or any("value" not in each for each in result["metrics"]):
                        errors.append('"model-index" is not valid')
        self.reply(400 if errors else 200, {"errors": [{"message": each} for each in errors], "warnings": []})

    def _commit(self, operations: list[dict[str, Any]]) -> None:
        hub = self.server
        if hub.outrun:
            hub.add(hub.commits[hub.head] | {"theirs.txt": (b"theirs", False)})
        tree = dict(hub.commits[hub.head])
        for each in operations:
            value = each["value"]
            if each["key"] == "header":
                if value.get("parentCommit") != hub.head:
                    self.reply(412, {"error": "A commit has happened since. Please refresh and try again."})
                    return
            elif each["key"] == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    self.reply(404, {"error": "A file with this name doesn't exist"}, {"X-Error-Code": "EntryNotFound"})
                    return
            elif each["key"] == "lfsFile":
                if value["oid"] not in hub.large or len(hub.large[value["oid"]]) != value["size"]:
                    self.reply(400, {"error": f"{value['path']}: was not uploaded"})
                    return
                tree[value["path"]] = (hub.large[value["oid"]], True)
            else:
                tree[value["path"]] = (base64.b64decode(value["content"]), False)
        if hub.spoils:
            tree[hub.spoils] = (b"other", tree[hub.spoils][1])
        name = hub.add(tree)
        self.reply(200, {"commitUrl": f"{hub.url}/{REPOSITORY}/commit/{name}", "commitOid": name, "commitMessage": ""})
