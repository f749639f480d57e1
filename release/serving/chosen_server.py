"""Chooses the runtime and the server image that `lockstep verify` starts, and names the device that they run on."""

import platform
from pathlib import Path

from checks.process.errors import ServingRefused
from release.overlay import named_server
from release.runtimes import Runtime, lookup
from release.serving import dialects
from release.serving.expected import Expected
from release.serving.options import VerifyOptions
from release.serving.server import Server

_NVIDIA = Path("/dev/nvidiactl")  # The device of NVIDIA's driver.


def gpus(server: Server, options: VerifyOptions) -> tuple[str, ...] | None:
    """Return the GPUs that serve, as ``checks.machine.meters`` takes them; empty: the CPU does.

    None: that is not known. A running server and an engine in a virtual machine may be elsewhere. A process may use any
    GPU of this machine.
    """
    if options.how == "container" and server.isolated is not None:
        return tuple(options.gpus.split(",")) if options.gpus else ()
    return () if options.how == "process" and not _NVIDIA.exists() else None


def device(options: VerifyOptions) -> str:
    """Return the device that it ran on, as far as it is known."""
    if options.how == "url":
        return "not known"
    return f"GPU {options.gpus}" if options.gpus else f"CPU, {platform.machine()}"


def runtime(root: Path, expected: Expected, options: VerifyOptions) -> Runtime:
    """Return the runtime of the server. Raises ServingRefused if it cannot run, or cannot be compared."""
    image = expected.image
    name = options.runtime or (image.runtime if image else expected.params.serve.runtime)
    chosen = lookup.at(root, image.commit, name) if image else lookup.here(root, name)
    if options.how == "process" and chosen.package is None:
        raise ServingRefused(
            f"{chosen.name} runs in its image alone",
            "verify the image, or serve with --runtime transformers",
        )
    # Such a server answers a request with tools otherwise than the offline model does.
    asked = [
        *(f"probe {probe.id}" for probe in expected.probes.probes if probe.tools),
        *(f"row {row.id}" for row in expected.rows if row.tools),
    ]
    if asked and dialects.SPEECHES[chosen.dialect].raw is None:
        raise ServingRefused(
            f"{asked[0]} has tools, and {chosen.name} does not return such an answer as the model writes it",
            "set serve.runtime to vllm, and build again",
        )
    return chosen


def server_image(root: Path, expected: Expected, options: VerifyOptions) -> str | None:
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
    if expected.image.server is not None:
        return expected.image.server
    named = named_server.of_all(root)
    if len(named) == 1:
        return named[0]
    what = f"the environments name {len(named)} servers for them"
    raise ServingRefused(
        f"the image holds the weights and no server, and {what if named else 'no environment names one'}",
        "name one in serve.server and build again, or by --server; or serve in a process by --runtime transformers",
    )
