"""The gateway's image as its recipe makes it, in a container held in as the component holds it in."""

import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import requests
import yaml

from checks.storage import layout
from tests import serving_base
from tests.conftest import REPOSITORY
from tests.gateway_requests import CHAT, body
from tests.model_standin import RELEASE, ModelStandIn, whole
from tests.ports import unused_port

pytestmark = pytest.mark.slow
RECIPE = "release/monitoring/gateway/Dockerfile"


@pytest.fixture(scope="module")
def image() -> str:
    """Built as a user builds it. The engine keeps the layers: only the first build on a machine takes two minutes."""
    client = serving_base.docker_engine()
    python = serving_base.python_image(client)
    settings, tag = serving_base.pip_settings(), "lockstep-tests/gateway:latest"
    settings.pop("find-links", None)
    secrets = []
    if certificates := settings.pop("cert", ""):
        secrets = ["--secret", f"id=ca,src={certificates}"]
        settings["cert"] = "/run/secrets/ca"
    with tempfile.TemporaryDirectory() as home:
        conf = Path(home) / "pip.conf"
        conf.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(settings.items())))
        command = ["docker", "build", "--quiet", "--network", "host", "--tag", tag, "--file", RECIPE, "."]
        command += ["--build-arg", f"PYTHON={python}", "--secret", f"id=pip,src={conf}", *secrets]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return tag


def test_it_runs_as_nobody_on_a_root_that_is_read_only(image: str) -> None:
    port, private = unused_port(), unused_port()
    with ModelStandIn() as model:
        command = [
            "docker",
            "run",
            "--detach",
            "--network",
            "host",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--tmpfs",
            "/work:uid=10001",
        ]
        command += [
            "--security-opt",
            "no-new-privileges",
            "--env",
            "LOCKSTEP_GATEWAY_ENVIRONMENT=staging",
            "--env",
            "LOCKSTEP_GATEWAY_CAPTURES=kept",
        ]
        program, *words = _command()
        command += [
            "--entrypoint",
            program,
            image,
            *words,
            "-C",
            "/work",
            "gateway",
            model.url,
            f"--port={port}",
            f"--metrics-port={private}",
        ]
        name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        try:
            until = time.monotonic() + 60
            while not _ready(private):
                assert time.monotonic() < until, subprocess.run(
                    ["docker", "logs", name], capture_output=True, check=False
                )
            reply = requests.post(f"http://127.0.0.1:{port}{CHAT}", json=body(3), timeout=9)
            assert (reply.content, reply.headers["Lockstep-Release"]) == (whole(3), RELEASE)
            user = subprocess.run(
                ["docker", "exec", name, "id", "-u"], capture_output=True, text=True, check=True
            ).stdout
            assert user.strip() == "10001"
            subprocess.run(["docker", "stop", "--time", "30", name], capture_output=True, check=True)
            inspected = ["docker", "inspect", "--format", "{{.State.ExitCode}}", name]
            assert subprocess.run(inspected, capture_output=True, text=True, check=True).stdout.strip() == "0"
            log = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True).stderr
            assert "Traceback" not in log
        finally:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=True)


def _command() -> list[str]:
    """The command by which the component starts the image."""
    text = (REPOSITORY / layout.ENVIRONMENTS / "components" / "gateway" / "objects.yaml").read_text()
    (deployment,) = [item for item in yaml.safe_load_all(text) if item["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return [str(word) for word in container["command"]]


def _ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/ready", timeout=9).status_code == 200
    except requests.ConnectionError:
        time.sleep(0.2)
        return False
