"""What GitHub takes as a request's body, by GitHub's own description of its API, and by the limits it does not write down.

The types are githubkit's, generated from that description (MIT, github.com/github/rest-api-description). Read strictly:
no unknown key, no value of another type, no null where the description has none; GitHub itself ignores unknown keys.
"""

import functools
import importlib
import json
import operator
import re
from collections.abc import Callable
from types import GenericAlias
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

LARGEST = 65_536  # characters of a comment
_COMMIT = re.compile(r"[0-9a-f]{40}")

_TYPES = {
    "POST comments": ("ReposOwnerRepoIssuesIssueNumberCommentsPostBodyType",),
    "PATCH comments": ("ReposOwnerRepoIssuesCommentsCommentIdPatchBodyType",),
    "POST check-runs": ("ReposOwnerRepoCheckRunsPostBodyOneof0Type", "ReposOwnerRepoCheckRunsPostBodyOneof1Type"),
    "POST statuses": ("ReposOwnerRepoStatusesShaPostBodyType",),
    "POST pulls": ("ReposOwnerRepoPullsPostBodyType",),
    "PATCH pulls": ("ReposOwnerRepoPullsPullNumberPatchBodyType",),
}


def problems(operation: str, body: bytes) -> list[str]:
    """Why GitHub would answer 422 to this body, or ignore a part of it; nothing for one that it takes as it is.

    ``operation`` is a method and the last fixed part of the path, as "POST check-runs". Raises KeyError for another.
    """
    try:
        (value,) = _adapter(operation).validate_json(json.dumps([json.loads(body)]))
    except ValidationError as error:
        return [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors(include_url=False)]
    except ValueError:
        return ["is no JSON"]
    return [told for told, holds in _LIMITS[operation] if not holds(value)]


@functools.cache
def _adapter(operation: str) -> TypeAdapter[Any]:
    # By name: the package holds thousands of types, which a type checker would read all of.
    types = importlib.import_module("githubkit_schemas.latest.types")
    wanted = functools.reduce(operator.or_, [getattr(types, name) for name in _TYPES[operation]])
    # A list of it, since pydantic takes no configuration for a TypedDict alone.
    listed: Any = GenericAlias(list, (wanted,))
    return TypeAdapter(listed, config=ConfigDict(extra="forbid", strict=True))


Limit = tuple[str, Callable[[dict[str, Any]], bool]]
_BODY: list[Limit] = [
    ("body: can't be blank", lambda value: value["body"].strip() != ""),
    (f"body: is longer than {LARGEST}", lambda value: len(value["body"]) <= LARGEST),
]
_LIMITS: dict[str, list[Limit]] = {
    "POST comments": _BODY,
    "PATCH comments": _BODY,
    "POST check-runs": [
        ("name: can't be blank", lambda value: value["name"].strip() != ""),
        ("head_sha: is no commit", lambda value: _COMMIT.fullmatch(value["head_sha"]) is not None),
        ("output.title: can't be blank", lambda value: "output" not in value or value["output"]["title"] != ""),
        ("output: is longer than 65535", lambda value: all(len(part) <= 65_535 for part in _output(value))),
    ],
    "POST statuses": [("description: is longer than 140", lambda value: len(value.get("description") or "") <= 140)],
    "PATCH pulls": [(f"body: is longer than {LARGEST}", lambda value: len(value.get("body") or "") <= LARGEST)],
    "POST pulls": [("title: is missing, and no issue is named", lambda value: bool(value.get("title")) or "issue" in value)],
}  # fmt: skip


def _output(value: dict[str, Any]) -> list[str]:
    output = value.get("output", {})
    return [output[name] for name in ("summary", "text") if name in output]
