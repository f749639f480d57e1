"""The stand-in for GitHub takes what GitHub's own description of its API has, and nothing else."""

import json
from typing import Any

import pytest
import requests

from tests import github_schema
from tests.github_api_standin import READ_ONLY, REPOSITORY, TOKEN, StandIn

CHECK: dict[str, Any] = {
    "name": "lockstep",
    "head_sha": "a" * 40,
    "status": "completed",
    "conclusion": "success",
    "completed_at": "2026-11-25T03:00:00Z",
    "output": {"title": "pass", "summary": "all"},
}
PULL = {"title": "promote", "head": "branch", "base": "main", "body": "why"}


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("POST comments", {"body": "x" * github_schema.LARGEST}),
        ("PATCH comments", {"body": "x"}),
        ("POST check-runs", CHECK),
        ("POST check-runs", {"name": "lockstep", "head_sha": "a" * 40, "status": "in_progress"}),
        ("POST statuses", {"state": "failure", "context": "lockstep", "description": None}),
        ("POST pulls", PULL),
    ],
)
def test_what_github_takes_is_taken(operation: str, body: dict[str, Any]) -> None:
    assert github_schema.problems(operation, json.dumps(body).encode()) == []


@pytest.mark.parametrize(
    ("operation", "body", "word"),
    [
        ("POST comments", {}, "body: Field required"),
        ("POST comments", {"body": 3}, "valid string"),
        ("POST comments", {"body": "x" * (github_schema.LARGEST + 1)}, "longer"),
        ("POST comments", {"body": " "}, "blank"),
        ("PATCH comments", {"body": "x", "author": "me"}, "author: Extra"),
        ("POST check-runs", CHECK | {"conclusion": "failed"}, "'failure'"),
        ("POST check-runs", CHECK | {"conclusion": None}, "conclusion"),
        ("POST check-runs", CHECK | {"head_sha": "main"}, "no commit"),
        ("POST check-runs", CHECK | {"details_url": None}, "details_url"),
        ("POST check-runs", CHECK | {"output": {"title": "pass"}}, "output.summary: Field required"),
        ("POST check-runs", CHECK | {"output": {"title": "", "summary": "x"}}, "blank"),
        ("POST check-runs", CHECK | {"output": {"title": "x", "summary": "x", "texts": "y"}}, "output.texts: Extra"),
        ("POST statuses", {"state": "failed"}, "'failure'"),
        ("POST statuses", {"state": "failure", "description": "x" * 141}, "longer"),
        ("POST pulls", PULL | {"base": None}, "base"),
        ("POST pulls", {"head": "branch", "base": "main"}, "title"),
    ],
)
def test_what_github_does_not_take_is_refused_and_named(operation: str, body: dict[str, Any], word: str) -> None:
    assert word in " ".join(github_schema.problems(operation, json.dumps(body).encode()))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"body": "a"},{"body": "b"}', b"\xff"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    assert github_schema.problems("POST comments", body) != []


def test_the_stand_in_answers_by_the_schema_the_token_and_the_pull_request() -> None:
    with StandIn() as server:
        server.pull("change", number=7)

        def post(path: str, value: object, token: str = TOKEN) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return requests.post(f"{server.url}/repos/{REPOSITORY}{path}", json=value, headers=headers).status_code

        assert post("/issues/7/comments", {"body": "x"}) == 201
        assert post("/issues/7/comments", {"text": "x"}) == 422
        assert post("/issues/8/comments", {"body": "x"}) == 404
        assert post("/issues/7/comments", {"body": "x"}, READ_ONLY) == 403
        assert post("/issues/7/comments", {"body": "x"}, "another") == 401
        assert post("/elsewhere", {"body": "x"}) == 404
        assert [each["body"] for each in server.on(7)] == ["x"]
        assert [kind for kind, _ in server.refused] == ["POST comments"]
