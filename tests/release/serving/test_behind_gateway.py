"""A gateway that `drill` or a benchmark started ends with all of its captures, though its process is killed later."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from checks.config.params import Params
from release.monitoring.store import CaptureStore
from release.runtimes import lookup
from release.serving import behind_gateway, processes
from release.serving.server import Server
from tests.conftest import REPOSITORY
from tests.gateway_requests import CHAT, body
from tests.model_standin import RELEASE, ModelStandIn

pytestmark = pytest.mark.slow


def test_the_captures_of_a_gateway_that_ends_are_all_there(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    captures, began, secret = tmp_path / "captures", datetime.now(UTC), tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    with ModelStandIn() as model:
        monkeypatch.setattr(processes, "start", lambda *_: Server(model.url, "model"))
        runtime = lookup.here(REPOSITORY, "transformers")
        with behind_gateway.started(
            runtime,
            params.serve,
            tmp_path,
            f"sha256:{RELEASE}{'0' * 52}",
            "production",
            captures,
            tmp_path,
            ("--user-secret", str(secret), "--user-header", "X-User"),
        ) as behind:
            behind.wait(120)
            for number in range(20):
                answer = requests.post(
                    behind.url + CHAT, json=body(number), headers={"X-User": f"{number % 5}"}, timeout=30
                )
                assert answer.status_code == 200
    stored = list(CaptureStore(str(captures)).requests("production", began, began + timedelta(hours=1)))
    assert len(stored) == 20
    assert len({row.user_key for row in stored} - {None}) == 5
    assert [path for path in captures.rglob("*") if path.suffix == ".open"] == []
