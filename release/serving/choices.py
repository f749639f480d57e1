"""Chooses the runtime and the server image that `lockstep verify` runs."""

from pathlib import Path

from checks.process.errors import ServingRefused
from release.overlay import named_server
from release.runtimes import Runtime, lookup
from release.serving import dialects
from release.serving.expected import Expected
from release.serving.options import VerifyOptions


def choose_runtime(root: Path, expected: Expected, options: VerifyOptions) -> Runtime:
    """Return the runtime of the server. Raises ServingRefused if it cannot run, or cannot be compared."""
    image = expected.image
    name = options.runtime or (image.runtime if image else expected.params.serve.runtime)
    runtime = lookup.at(root, image.commit, name) if image else lookup.here(root, name)
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
