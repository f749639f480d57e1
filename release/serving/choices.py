"""What `lockstep verify` runs: the options, and the runtime and server image that follow from them."""

from pathlib import Path
from typing import Literal, NamedTuple

from checks.process.errors import ServingRefused
from release import runtimes
from release.overlay import named_server
from release.runtimes import Runtime
from release.serving import dialects
from release.serving.expected import Expected


class VerifyOptions(NamedTuple):
    """The options of a verification.

    ``image``: the built image in a registry, HOST/NAME[:TAG]@sha256:…; None: where `lockstep build` put it. ``url``:
    check a running server. ``runtime``: with a URL, the runtime of that server (None: as the image was built, or
    serve.runtime); without one, serve the weights with it in a process instead of Docker (if nothing was built, those
    of models/merged). ``gpus``: for the container, ``all`` or devices separated by commas. ``server``: the server image
    NAME@sha256:… for an image with weights alone; None: the one that the environments name.
    """

    image: str | None = None
    url: str | None = None
    runtime: str | None = None
    gpus: str | None = None
    server: str | None = None

    @property
    def how(self) -> Literal["container", "process", "url"]:
        """How the server is run: ``container``, ``process`` or ``url``."""
        if self.url is not None:
            return "url"
        return "container" if self.runtime is None else "process"


def check_options(options: VerifyOptions) -> None:
    """Raise ServingRefused if options contradict each other."""
    if options.url is not None and options.image is not None:
        raise ServingRefused("an image and a URL are two ways to verify", "name one of them")
    if options.gpus is not None and options.how != "container":
        raise ServingRefused(
            f"GPUs are given to a container, not to a {options.how}", "leave them out"
        )


def choose_runtime(expected: Expected, options: VerifyOptions) -> Runtime:
    """Return the runtime of the server. Raises ServingRefused if it cannot run, or cannot be compared."""
    built = expected.image.runtime if expected.image else expected.params.serve.runtime
    runtime = runtimes.load(options.runtime or built)
    if options.how == "process" and runtime.package is None:
        raise ServingRefused(
            f"{runtime.name} runs in its image alone",
            "verify the image, or serve with --runtime transformers",
        )
    # Such a server answers a request with tools otherwise than the offline model does.
    asked = [f"probe {probe.id}" for probe in expected.probes.probes if probe.tools]
    asked += [f"row {row.id}" for row in expected.rows if row.tools]
    if asked and dialects.SPEECHES[runtime.dialect].raw is None:
        raise ServingRefused(
            f"{asked[0]} has tools, and {runtime.name} does not return such an answer as the model writes it",
            "set serve.runtime to vllm, and build again",
        )
    return runtime


def choose_server(root: Path, expected: Expected, options: VerifyOptions) -> str | None:
    """Return the server image, NAME@sha256:…, for an image with weights alone; None if none is needed.

    Raises ServingRefused if it is needed and unknown, or named and not needed.
    """
    if options.how != "container" or expected.image is None or expected.image.base is not None:
        if options.server is not None:
            raise ServingRefused(
                "a server's image is for weights alone, in a container", "leave --server out"
            )
        return None
    if options.server is not None:
        if not named_server.SERVER.fullmatch(options.server):
            raise ServingRefused(
                f"{options.server[:100]!r}: is not a server image with a digest",
                "write NAME@sha256:…",
            )
        return options.server
    named = named_server.of_all(root)
    if len(named) == 1:
        return named[0]
    what = f"the environments name {len(named)} servers for them"
    raise ServingRefused(
        f"the image holds the weights and no server, and {what if named else 'no environment names one'}",
        "name one by --server NAME@sha256:…; or serve the weights in a process by --runtime transformers",
    )
