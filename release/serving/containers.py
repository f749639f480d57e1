"""Starts an image in a container as it ships, with its own command, environment and user.

Weights alone are mounted read-only in their server's image, which is started as a cluster starts it.

The container has no way out (an internal network), a read-only root file system (with memory at the paths that the
runtime names), no capabilities and no new privileges. On Linux the server is reached at the container's own address.
Elsewhere (Docker Desktop, a rootless engine) its port is published on 127.0.0.1, and ``isolated`` is None.
"""

import contextlib
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig

from checks.process.errors import MachineRefused, ServingRefused
from checks.process.text import redact
from release.runtimes import Filled, Runtime
from release.serving import owners
from release.serving.progress import Progress
from release.serving.server import Server, last

VERIFY = "lockstep.verify"  # labels of containers and networks
OWNER = "lockstep.owner"
_LINES = 20_000  # Lines of a log.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Mounted(NamedTuple):
    """Weights alone: ``folder`` on this machine, ``path`` in the container, and how their server is started.

    ``adapters``: folders of other adapters on this machine, by their path in the container.
    """

    folder: Path
    path: str
    filled: Filled
    adapters: Mapping[str, Path] = {}


class Container(Server):
    """A server in a container with a network of its own."""

    how = "container"

    def __init__(self, engine: Any, name: str, model: str) -> None:
        super().__init__("", model)
        self.name = name
        self._engine = engine
        self._container: Any = None

    def log(self) -> bytes:
        """Return the end of its log."""
        with contextlib.suppress(DockerException, OSError):
            if self._container is not None:
                return bytes(self._container.logs(tail=_LINES))
        return b""

    def stop(self) -> None:
        """Send SIGTERM."""
        with contextlib.suppress(APIError):  # it ended by itself: its exit code tells
            self._container.kill("SIGTERM")

    def close(self) -> None:
        """Remove the container, its volumes and its network. Raises MachineRefused if the engine fails."""
        self._container = None
        _remove(self._engine, self.name)

    def code(self) -> int | None:
        """Return its exit code, -1 if the container is gone; None while it runs."""
        if self._container is None:
            return -1
        try:
            self._container.reload()
        except NotFound:
            return -1
        except (DockerException, OSError) as error:
            raise no_engine(error) from error
        state = self._container.attrs["State"]
        return None if state["Running"] else int(state["ExitCode"])


def start(
    image: str,
    runtime: Runtime,
    model: str,
    gpus: str | None = None,
    mounted: Mounted | None = None,
) -> Container:
    """Start ``image`` and return at once; ``server.wait_until`` waits for it.

    ``image``: NAME@sha256:… (pulled if missing) or an image's id; ``model``: the weights' folder in it; ``gpus``:
    ``all``, or numbers or UUIDs separated by commas; ``mounted``: weights that are not in the image. Raises
    ServingRefused if the image is not available, does not start or has no server, MachineRefused if no engine answers.
    Then everything is removed.
    """
    engine = connect()
    remove_leftovers(engine)
    image_found = _image(
        engine, image, started=mounted is not None and mounted.filled.entrypoint is not None
    )
    server = Container(engine, f"lockstep-{secrets.token_hex(6)}", model)
    try:
        _run(server, engine, image_found, runtime, gpus, mounted)
    except BaseException as error:
        server.close()
        if isinstance(error, DockerException | OSError):
            raise ServingRefused(
                f"{image}: does not start: {line(error)}", "fix the image, or free what it needs"
            ) from error
        raise
    return server


def connect(timeout: float = 120) -> Any:
    """A client of the Docker Engine, with a time limit of ``timeout`` seconds per reply.

    Raises MachineRefused if none answers.
    """
    try:
        engine = docker.from_env(timeout=timeout)
        engine.ping()
    except (DockerException, OSError) as error:
        raise no_engine(error) from error
    return engine


def remove_leftovers(engine: Any) -> int:
    """Remove what killed runs left in the engine; return the number of runs."""
    try:
        kept = [*engine.containers.list(all=True, filters={"label": VERIFY}, ignore_removed=True)]
        kept += engine.networks.list(filters={"label": VERIFY})
        labels = [_labels(container) for container in kept]
        dead = {label[VERIFY] for label in labels if not owners.lives(label.get(OWNER, ""))}
        for name in dead:
            _remove(engine, name)
    except (DockerException, OSError) as error:
        raise no_engine(error) from error
    return len(dead)


def _image(engine: Any, image: str, *, started: bool) -> Any:
    """The image, pulled if needed. It must have a command, unless ``started`` says how to start it."""
    if "sha256:" not in image:
        raise ServingRefused(f"{image}: names no digest", "write it as NAME@sha256:…")
    try:
        try:
            image_found = engine.images.get(image)
        except ImageNotFound:
            name, _, digest = image.rpartition("@")
            if not name:
                raise
            with Progress(f"pull {name}", unit="B") as bar:
                _watch(engine.api.pull(name, tag=digest, stream=True, decode=True), bar)
            image_found = engine.images.get(image)
    except (DockerException, OSError) as error:
        raise ServingRefused(
            f"{image}: cannot be pulled: {line(error)}", "check the name and `docker login`"
        ) from error
    config = image_found.attrs.get("Config") or {}
    if not started and not config.get("Entrypoint") and not config.get("Cmd"):
        raise ServingRefused(
            f"{image}: carries weights and no server",
            "name a server's image in serve.base, or verify a folder or a URL",
        )
    return image_found


def _watch(events: Any, bar: Progress) -> None:
    """Update the bar with the bytes downloaded. Raises DockerException if the engine reports an error."""
    bytes_of_layer: dict[str, int] = {}
    for event in events:
        if "error" in event:
            raise DockerException(event["error"])
        detail, layer = event.get("progressDetail") or {}, event.get("id", "")
        if event.get("status") == "Downloading" and "current" in detail:
            bar.update(max(0, detail["current"] - bytes_of_layer.get(layer, 0)))
            bytes_of_layer[layer] = detail["current"]


def _run(
    server: Container,
    engine: Any,
    image: Any,
    runtime: Runtime,
    gpus: str | None,
    mounted: Mounted | None,
) -> None:
    labels = {VERIFY: server.name, OWNER: owners.self()}
    near = _is_near(engine)
    sealed = "read-only" not in runtime.cannot
    engine.networks.create(server.name, driver="bridge", internal=near, labels=labels)
    devices = []
    if gpus is not None:
        named = {"count": -1} if gpus == "all" else {"device_ids": gpus.split(",")}
        devices = [DeviceRequest(driver="nvidia", capabilities=[["gpu"]], **named)]
    server._container = engine.containers.create(
        image.id,
        name=server.name,
        labels=labels,
        network=server.name,
        ports={} if near else {f"{runtime.port}/tcp": ("127.0.0.1", None)},
        read_only=sealed,
        # Docker mounts these noexec unless told; kernels that are compiled at the start are loaded from there.
        tmpfs=dict.fromkeys(runtime.writable, "rw,exec,nosuid,nodev,mode=1777") if sealed else {},
        shm_size=f"{runtime.shm_mb}m",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        device_requests=devices,
        log_config=LogConfig(type="json-file", config={"max-size": "32m"}),
        use_config_proxy=False,
        **(_started(runtime, mounted) if mounted else {}),
    )
    server._container.start()
    server.isolated, server.sealed = (True if near else None), sealed
    server.url = f"http://{_address(server, runtime.port, near)}"


def _started(runtime: Runtime, mounted: Mounted) -> dict[str, Any]:
    """How a cluster starts a server on mounted weights (release/overlay), as options of the engine."""
    filled = mounted.filled
    folders = {mounted.path: mounted.folder, **mounted.adapters}
    return {
        "volumes": {
            str(folder.resolve()): {"bind": path, "mode": "ro"} for path, folder in folders.items()
        },
        "environment": dict(filled.environment),
        **({"entrypoint": list(filled.entrypoint)} if filled.entrypoint is not None else {}),
        **({"command": list(filled.command)} if filled.command else {}),
        **({"user": runtime.user} if runtime.user else {}),
    }


def _address(server: Container, port: int, near: bool) -> str:
    """Where it listens. Raises ServingRefused if the container already ended and has no address."""
    container = server._container
    container.reload()
    settings = container.attrs["NetworkSettings"]
    if near:
        address = settings["Networks"][server.name]["IPAddress"]
        host = f"{address}:{port}" if address else ""
    else:
        published = settings["Ports"].get(f"{port}/tcp")
        host = f"127.0.0.1:{published[0]['HostPort']}" if published else ""
    if not host:
        raise ServingRefused(
            f"the server ended at once: {server.gone()}", "fix what its log says", last(server)
        )
    return host


def _is_near(engine: Any) -> bool:
    """Whether containers are reachable at their own addresses. Raises MachineRefused for another machine's engine."""
    info, url = engine.info(), urlsplit(engine.api.base_url)
    unix = url.scheme in ("http+docker", "http+unix")
    if not unix and url.hostname not in _LOOPBACK and url.scheme != "npipe":
        raise MachineRefused(
            f"the Docker Engine at {url.hostname} is another machine",
            "start the server there and verify it by its URL",
        )
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or [])
    desktop = "Docker Desktop" in info.get("OperatingSystem", "")
    return unix and sys.platform == "linux" and not rootless and not desktop


def _remove(engine: Any, name: str) -> None:
    """Remove the containers and networks of one run."""
    chosen = {"label": f"{VERIFY}={name}"}
    try:
        for container in engine.containers.list(all=True, filters=chosen, ignore_removed=True):
            with contextlib.suppress(NotFound):
                container.remove(force=True, v=True)
        for network in engine.networks.list(filters=chosen):
            with contextlib.suppress(NotFound):
                network.remove()
    except (DockerException, OSError) as error:
        raise MachineRefused(
            f"container and network {name} are not removed: {line(error)}",
            f"docker rm -f {name}; docker network rm {name}",
        ) from error


def _labels(kept: Any) -> dict[str, str]:
    """The labels of a container or network."""
    labels = kept.attrs.get("Labels") or (kept.attrs.get("Config") or {}).get("Labels") or {}
    return dict(labels)


def no_engine(error: Exception) -> MachineRefused:
    """The refusal if the engine cannot be reached."""
    return MachineRefused(
        f"no Docker Engine answers: {line(error)}", "start Docker, or set DOCKER_HOST"
    )


def line(error: Exception) -> str:
    """An error of the engine on one printable line."""
    return redact(str(getattr(error, "explanation", None) or error), 300) or type(error).__name__
