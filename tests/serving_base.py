"""A real Docker Engine and a real serving base for tests, made where no image can be pulled.

The base is a debootstrapped Debian with this interpreter's Python in it, as the image that the recipe of the runtime
``transformers`` (release/runtimes/recipes) is built on: the recipe is the one that users build. Images stay in the engine
under tags that hold a hash of all that made them, so each machine makes them once.
"""

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from checks.config.release_params import Serve
from release import runtimes
from release.serving import containers, owners
from tests import programs

RECIPE = runtimes.FOLDER / "recipes" / "transformers"
MODEL = "/models/tiny"
_DEBIAN = ("--variant=minbase", "--include=python3,ca-certificates", "trixie")
_PYTHON_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "__pycache__"}
_BUILDKIT = {"DOCKER_BUILDKIT": "1"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_CACHES = ("./usr/share/doc/*", "./usr/share/locale/*", "./var/cache/apt/*", "./var/lib/apt/lists/*", "./dev/*")


@functools.cache
def docker_engine() -> Any:
    """A client of the Docker Engine; skips the test, or fails it where CI requires the engine."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except (DockerException, OSError) as error:
        programs.missing("docker", f"no Docker Engine answers: {str(error).splitlines()[0]}")
    return client


def serving_image() -> str:
    """Tag of the base that the recipe makes; built on the first call on a machine, about three minutes."""
    client = docker_engine()
    torch = metadata.version("torch")
    if not torch.endswith("+cpu"):
        programs.missing("docker", f"torch {torch} here is no build for CPUs: the base would be gigabytes")
    python = python_image(client)
    parts = [path.read_bytes() for path in sorted(RECIPE.iterdir())]
    tag = f"lockstep-tests/serve:{_hash(python, torch, *parts)}"
    with _lock("serve"):
        if not _has(client, tag):
            _build_recipe(tag, python, torch)
    return tag


def plain_image() -> str:
    """Tag of a Debian with Python alone: for containers that are no model server."""
    return python_image(docker_engine())


def baked(base: str, dockerfile: str, context: Path | None = None) -> str:
    """Id of an image that Docker builds on ``base``; ``remove`` it when done."""
    with tempfile.TemporaryDirectory(prefix="lockstep-baked-") as empty:
        folder = context or Path(empty)
        command = ["docker", "build", "--quiet", "--network", "none", "--file", "-", str(folder)]
        done = subprocess.run(
            command, input=f"FROM {base}\n{dockerfile}", capture_output=True, text=True, env=os.environ | _BUILDKIT
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def with_model(folder: Path, serve: Serve) -> str:
    """Id of an image that serves the weights in ``folder`` from MODEL, configured as the runtime says."""
    filled = runtimes.fill(runtimes.load("transformers"), serve, MODEL)
    lines = [f"ENV {name}={json.dumps(value)}" for name, value in filled.environment.items()]
    lines += [
        f"COPY --chmod=755 . {MODEL}",
        f"ENTRYPOINT {json.dumps(filled.entrypoint)}",
        f"CMD {json.dumps(filled.command)}",
    ]
    return baked(serving_image(), "\n".join(lines), folder)


def left(*models: str) -> set[str]:
    """Names of this process's containers and networks, and ids of the images that hold ``models`` (tree digests).

    The engine is shared: other workers of pytest have containers and images of their own in it.
    """
    engine, mine = docker_engine(), {"label": f"{containers.OWNER}={owners.self()}"}
    found = [*engine.containers.list(all=True, filters=mine), *engine.networks.list(filters=mine)]
    held = (engine.images.list(all=True, filters={"label": f"lockstep.model={model}"}) for model in models)
    return {each.name for each in found} | {image.id for images in held for image in images}


def remove(image: str) -> None:
    """Forget an image, if it is there; layers of other images stay."""
    from docker.errors import ImageNotFound

    with suppress(ImageNotFound):
        docker_engine().images.remove(image, force=True)


def layout(image: str, folder: Path) -> Path:
    """The image as an OCI layout in ``folder``."""
    folder.mkdir(parents=True)
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        subprocess.run(["tar", "-x", "-C", str(folder)], stdin=saving.stdout, check=True)
    assert saving.returncode == 0
    assert (folder / "oci-layout").exists()
    return folder


def python_image(client: Any) -> str:
    """Debian with this Python below /usr/local, where its public images have it too."""
    tag = f"lockstep-tests/python:{_hash(sys.version, *_DEBIAN, _PATH)}"
    with _lock("python"):
        if not _has(client, tag):
            if shutil.which("debootstrap") is None or os.getuid() != 0:
                programs.missing("docker", "a base needs debootstrap, run as root")
            with tempfile.TemporaryDirectory(prefix="lockstep-debian-") as home:
                root = Path(home) / "root"
                _run(["debootstrap", *_DEBIAN, str(root)])
                _copy_python(root)
                _import(root, tag)
    return tag


def _copy_python(root: Path) -> None:
    prefix, local = Path(sys.base_prefix), root / "usr" / "local"
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if prefix == Path("/usr"):
        programs.missing("docker", "the system's own Python cannot be copied into a base: run the tests by another")

    def left_out(folder: str, names: list[str]) -> set[str]:
        if Path(folder).name == "site-packages":
            return {each for each in names if not each.startswith(("pip", "setuptools"))}
        return {each for each in names if each in _PYTHON_LEFT_OUT or each.startswith("config-") or each.endswith(".a")}

    shutil.copytree(prefix / "lib" / name, local / "lib" / name, ignore=left_out, dirs_exist_ok=True)
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(library, local / "lib" / library.name, follow_symlinks=False)
    shutil.copy2(prefix / "bin" / name, local / "bin" / name)
    (local / "bin" / "python3").symlink_to(name)
    _run(["ldconfig", "-r", str(root)])


def _import(root: Path, tag: str) -> None:
    left_out = [f"--exclude={pattern}" for pattern in _NO_CACHES]
    with subprocess.Popen(["tar", "-C", str(root), *left_out, "-c", "."], stdout=subprocess.PIPE) as packing:
        command = ["docker", "import", "--change", f"ENV PATH={_PATH}", "-", tag]
        subprocess.run(command, stdin=packing.stdout, stdout=subprocess.DEVNULL, check=True)
    assert packing.returncode == 0


def _build_recipe(tag: str, python: str, torch: str) -> None:
    """The recipe as a user builds it, with this machine's settings of pip as secrets and its wheels as a folder."""
    settings = pip_settings()
    with tempfile.TemporaryDirectory(prefix="lockstep-recipe-") as home:
        wheels, conf = Path(home) / "wheels", Path(home) / "pip.conf"
        wheels.mkdir()
        found = settings.pop("find-links", "")
        if Path(found).is_dir():
            for wheel in Path(found).glob("torch-*.whl"):
                os.link(wheel, wheels / wheel.name) if _same_disk(wheel, wheels) else shutil.copy2(wheel, wheels)
        secrets = []
        if certificates := settings.pop("cert", ""):
            secrets = ["--secret", f"id=ca,src={certificates}"]
            settings["cert"] = "/run/secrets/ca"
        conf.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(settings.items())))
        arguments = ["--build-arg", f"PYTHON={python}", "--build-arg", f"TORCH=torch=={torch}"]
        given = ["--secret", f"id=pip,src={conf}", *secrets, "--build-context", f"wheels={wheels}"]
        _run(
            ["docker", "build", "--quiet", "--network", "host", "--tag", tag, *arguments, *given, str(RECIPE)],
            _BUILDKIT,
        )


def pip_settings() -> dict[str, str]:
    """What pip is told on this machine, without its files of constraints."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = (line.partition("=") for line in lines)
    return {
        key.rpartition(".")[2]: value.strip("'\"")
        for key, _, value in pairs
        if key.startswith(("global.", "install.", ":env:.")) and not key.endswith((".constraint", ".no-index"))
    }


def _same_disk(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _has(client: Any, tag: str) -> bool:
    return bool(client.images.list(name=tag))


def _hash(*parts: str | bytes) -> str:
    sized = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in sized)).hexdigest()[:12]


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | (environment or {})
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}"


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """One process of this machine at a time."""
    import fcntl

    with (Path(tempfile.gettempdir()) / f"lockstep-tests-{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
