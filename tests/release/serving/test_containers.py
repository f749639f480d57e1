"""Servers in containers, by a real Docker Engine and a real `transformers serve` with a tiny model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from checks.process.errors import MachineRefused, Refusal, ServingRefused
from release import runtimes
from release.serving import containers, server
from release.serving.containers import Container
from tests import registry_service, serving_base
from tests.conftest import REPOSITORY, as_params, scaled_down

RUNTIME = runtimes.load("transformers")
LISTENS = 'CMD ["python3", "-u", "-m", "http.server", "8000"]'
IDLES = 'CMD ["sh", "-c", "echo I idle; exec sleep 600"]'
DIES = 'CMD ["sh", "-c", "printf \'one\\\\n\\\\033[31mtwo\\\\033[0m\\\\n\'; exit 3"]'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Any:
    return serving_base.docker_engine()


@pytest.fixture(scope="module")
def image(tiny_base: Path) -> Iterator[str]:
    """An image with the tiny model in it."""
    document = scaled_down()
    document["serve"] |= {"dtype": "fp32"}
    made = serving_base.with_model(tiny_base, as_params(document).serve)
    yield made
    serving_base.remove(made)


@pytest.fixture(scope="module")
def serving(engine: Any, image: str) -> Iterator[Container]:
    with closing(containers.start(image, RUNTIME, serving_base.MODEL)) as started:
        server.wait_until(started, lambda: healthy(started), 60)
        yield started


@pytest.fixture
def small(engine: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """An image on a Debian with Python alone; its parameter is the rest of its Dockerfile."""
    made = serving_base.baked(serving_base.plain_image(), request.param)
    yield made
    serving_base.remove(made)


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    before = serving_base.left()
    yield
    if "serving" not in request.fixturenames:
        assert serving_base.left() == before


def left(engine: Any) -> set[str]:
    """Containers and networks of this tool, by name."""
    chosen = {"label": containers.VERIFY}
    found = [*engine.containers.list(all=True, filters=chosen), *engine.networks.list(filters=chosen)]
    return {each.name for each in found}


def healthy(started: server.Server) -> bool:
    try:
        return requests.get(f"{started.url}/health", timeout=5).ok
    except requests.RequestException:
        return False


def reached(started: server.Server) -> bool:
    """Whether anything answers."""
    try:
        return requests.get(started.url, timeout=5).ok
    except requests.RequestException:
        return False


def body(tokens: int, stream: bool = False) -> dict[str, Any]:
    message = {"role": "user", "content": "show the queue"}
    return {"messages": [message], "max_tokens": tokens, "temperature": 0, "stream": stream}


def inside(engine: Any, name: str, script: str) -> tuple[int, str]:
    code, output = engine.containers.get(name).exec_run(["python3", "-c", script])
    return code, output.decode()


def test_it_answers_a_chat_from_the_weights_in_the_image(serving: Container) -> None:
    reply = requests.post(f"{serving.url}/v1/chat/completions", json=body(5), timeout=60)
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 5
    models = requests.get(f"{serving.url}/v1/models", timeout=10).json()
    assert models["data"][0]["id"] == serving_base.MODEL
    assert serving.gone() is None
    assert b"Uvicorn running" in serving.log()


def test_wrong_requests_get_the_codes_that_the_runtime_names(serving: Container) -> None:
    chat = f"{serving.url}/v1/chat/completions"
    assert requests.post(chat, data=b'{"messages": [', timeout=60).status_code in (RUNTIME.errors.malformed or ())
    other = requests.post(chat, json=body(5) | {"model": "another"}, timeout=60)
    assert other.status_code in (RUNTIME.errors.unknown_model or ())
    long = body(1) | {"messages": [{"role": "user", "content": "show " * 1000}]}
    assert requests.post(chat, json=long, timeout=60).ok  # as `cannot` of the runtime says
    assert [requests.get(f"{serving.url}{path}", timeout=9).status_code for path in ("/metrics", "/tokenize")] == [
        404
    ] * 2


def test_it_has_no_way_out(engine: Any, serving: Container) -> None:
    """A listener of this host that a container of Docker's own network reaches is out of reach, and so are names."""
    assert serving.isolated is True
    outside = engine.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    with socket.create_server(("0.0.0.0", 0)) as listener:
        script = f"import socket; socket.create_connection(('{outside}', {listener.getsockname()[1]}), 5)"
        control = engine.containers.run(
            serving_base.plain_image(), ["python3", "-c", script + "; print('reached')"], remove=True
        )
        code, output = inside(engine, serving.name, script)
    assert control == b"reached\n"
    assert code == 1
    assert "Network is unreachable" in output
    assert inside(engine, serving.name, "import socket; socket.getaddrinfo('example.org', 80)")[0] == 1


def test_its_root_file_system_cannot_be_written(engine: Any, serving: Container) -> None:
    assert serving.sealed is True
    for path in ("/x", f"{serving_base.MODEL}/x", "/usr/local/lib/x", "/run/x"):
        code, output = inside(engine, serving.name, f"open('{path}', 'w')")
        assert code == 1
        assert "Read-only file system" in output
    assert inside(engine, serving.name, "open('/tmp/x', 'w').write('x')")[0] == 0


def test_it_is_no_root_and_has_no_capability(engine: Any, serving: Container) -> None:
    status = inside(engine, serving.name, "print(open('/proc/1/status').read())")[1]
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert told["Uid"].split()[0] == "10001"
    assert {int(told[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
    assert told["NoNewPrivs"] == "1"


@pytest.mark.parametrize("small", [DIES], indirect=True)
def test_a_container_that_dies_at_its_start_gives_its_log_within_seconds(small: str) -> None:
    began = time.monotonic()
    with pytest.raises(ServingRefused) as refusal, closing(containers.start(small, RUNTIME, "/m")) as started:
        server.wait_until(started, lambda: healthy(started), 600)
    assert time.monotonic() - began < 10
    assert "exit code 3; its log ends: one / two" in str(refusal.value)
    assert refusal.value.others == ("one", "two")
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("small", [IDLES], indirect=True)
def test_a_deadline_that_passes_refuses(small: str) -> None:
    with closing(containers.start(small, RUNTIME, "/m")) as started:
        with pytest.raises(ServingRefused, match=r"not ready after 1 s; raise serve\.verify") as refusal:
            server.wait_until(started, lambda: healthy(started), 1)
        assert refusal.value.others == ("I idle",)
        assert started.terminate(0.5) is None  # the first process of a container ignores what it does not handle
        started.close()
        started.close()
        assert started.gone() == "exit code -1; its log is empty"


@pytest.mark.parametrize("small", [LISTENS], indirect=True)
def test_where_containers_cannot_be_reached_a_port_is_published_here_alone(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_is_near", lambda _: False)
    with closing(containers.start(small, RUNTIME, "/m")) as started:
        server.wait_until(started, lambda: reached(started), 30)
        assert started.url.startswith("http://127.0.0.1:")
        assert started.isolated is None
        assert started.sealed is True


@pytest.mark.parametrize("small", [LISTENS], indirect=True)
def test_a_runtime_that_cannot_run_sealed_is_run_unsealed(small: str) -> None:
    open_one = RUNTIME.model_copy(update={"cannot": RUNTIME.cannot | {"read-only": "it writes everywhere"}})
    with closing(containers.start(small, open_one, "/m")) as started:
        assert started.sealed is False
        assert inside(serving_base.docker_engine(), started.name, "open('/x', 'w')")[0] == 0


OURS = """
import signal, sys, time
from contextlib import closing
from release import runtimes
from release.serving import containers, server
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever nohup starts ignores it
with server.unwinding(), closing(containers.start(sys.argv[1], runtimes.load("transformers"), "/m")) as started:
    print(started.name, flush=True)
    time.sleep(600)
"""


def ours(image: str) -> tuple["subprocess.Popen[str]", str]:
    """A process of this tool that holds a server, and the server's name."""
    process = subprocess.Popen([sys.executable, "-c", OURS, image], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("small", [LISTENS], indirect=True)
def test_a_run_that_is_told_to_end_removes_its_container(engine: Any, small: str, number: signal.Signals) -> None:
    process, name = ours(small)
    assert name in left(engine)
    process.send_signal(number)
    assert process.wait(30) != 0
    assert name not in left(engine)


@pytest.mark.parametrize("small", [LISTENS], indirect=True)
def test_what_a_killed_run_left_is_removed_at_the_next_start_and_nothing_else(engine: Any, small: str) -> None:
    killed, orphan = ours(small)
    other, kept = ours(small)
    assert {orphan, kept} <= left(engine)
    killed.kill()  # from here on, another worker's start may remove it, too
    killed.wait()
    try:
        with closing(containers.start(small, RUNTIME, "/m")) as started:
            assert orphan not in left(engine)
            assert {kept, started.name} <= left(engine)
    finally:
        other.terminate()
        other.wait(30)


@pytest.mark.parametrize("small", [f"RUN touch /mark\n{LISTENS}"], indirect=True)
def test_an_image_of_a_registry_is_pulled_by_its_digest(engine: Any, small: str, tmp_path: Path) -> None:
    with registry_service.registry(tmp_path / "registry") as registry:
        name = f"{registry.host}/team/listens"
        engine.images.get(small).tag(name, "pushed")
        pushed = engine.images.push(name, tag="pushed", stream=True, decode=True)
        (digest,) = [event["aux"]["Digest"] for event in pushed if "aux" in event]
        engine.images.remove(small, force=True)  # its last layer has to be downloaded
        with closing(containers.start(f"{name}@{digest}", RUNTIME, "/m")) as started:
            server.wait_until(started, lambda: reached(started), 30)
            assert engine.containers.get(started.name).image.id == small
        engine.images.remove(f"{name}@{digest}")


REFUSED = {
    "no digest": ("debian:trixie", "names no digest"),
    "an id of nothing": (f"sha256:{'0' * 64}", "cannot be pulled"),
    "a registry that does not answer": (f"127.0.0.1:9/none@sha256:{'0' * 64}", "cannot be pulled"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_image_that_cannot_be_had_is_refused(case: str) -> None:
    image, said = REFUSED[case]
    with pytest.raises(ServingRefused, match=said):
        containers.start(image, RUNTIME, "/m")


def test_weights_without_a_server_are_refused(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "w.tar").write_bytes(bytes(10240))
    made = engine.images.get(
        engine.api.import_image(str(tmp_path / "w.tar")).strip().partition('"status":"')[2][:71]
    ).id
    try:
        with pytest.raises(ServingRefused, match="carries weights and no server"):
            containers.start(made, RUNTIME, "/m")
    finally:
        serving_base.remove(made)


@pytest.mark.parametrize("small", [LISTENS], indirect=True)
def test_a_gpu_that_is_not_there_is_refused_and_nothing_stays(small: str) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with pytest.raises(ServingRefused, match="does not start"):
        containers.start(small, RUNTIME, "/m", gpus="all")


@pytest.mark.parametrize("small", ['CMD ["/absent"]'], indirect=True)
def test_a_command_that_is_not_in_the_image_is_refused_and_nothing_stays(small: str) -> None:
    with pytest.raises(ServingRefused, match="does not start"):
        containers.start(small, RUNTIME, "/m")


@pytest.mark.parametrize("address", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "nonsense"])
def test_without_an_engine_it_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(MachineRefused, match="no Docker Engine answers"):
        containers.start(f"a@sha256:{'0' * 64}", RUNTIME, "/m")


def test_an_engine_of_another_machine_is_refused(engine: Any) -> None:
    class Elsewhere:
        """A stand-in: an engine by TCP."""

        api = type("Api", (), {"base_url": "http://192.0.2.1:2375"})

        def info(self) -> dict[str, Any]:
            return {}

    with pytest.raises(Refusal, match=r"192\.0\.2\.1 is another machine; .* verify it by its URL"):
        containers._is_near(Elsewhere())


def test_the_recipes_image_keeps_no_settings_of_pip(engine: Any) -> None:
    history = json.dumps(engine.images.get(serving_base.serving_image()).history())
    script = "import pathlib; print([str(p) for p in pathlib.Path('/run').rglob('*')], pathlib.Path('/etc/pip.conf').exists())"
    output = engine.containers.run(serving_base.serving_image(), ["python3", "-c", script], remove=True).decode()
    assert "http" not in history
    assert "pip" not in output.partition("]")[0]
    assert output.strip().endswith("False")


def test_the_engine_is_reached_as_the_environment_says() -> None:
    assert "DOCKER_HOST" not in os.environ or containers.connect().ping()
