"""Finds the server that an environment runs: `lockstep verify --against` starts it, and a promotion asks for that."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from checks.formats.serving import BaseImage, PinnedImage
from checks.formats.statement import Release
from checks.process.errors import ServingRefused
from release.adapters.registry import reference
from release.overlay import named_server
from release.promotion import environment as environments
from release.promotion.checklist import CheckResult, PromotionContext
from release.promotion.environment import Promotion
from release.runtimes import lookup
from release.serving.expected import Expected
from release.serving.options import VerifyOptions

if TYPE_CHECKING:
    from release.serving.against import RunningServer


def find(
    context: PromotionContext, expected: Expected, server_image: str | None, options: VerifyOptions
) -> "RunningServer":
    """Find the server of ``options.against``. ``server_image``: the new one, of weights alone.

    With ``options.against_python`` a process of that Python stands for it, with the weights that are here.

    Raises ServingRefused if the environment runs nothing, other weights, or this very server; EvidenceRefused if there
    is no such environment, its evidence cannot be read, or no signer signed it; MachineRefused if the Python has no
    such program.
    """
    from release.serving.against import (
        RunningServer,
    )  # It imports numpy, and a promotion asks without it.

    name = options.against
    assert name is not None
    assert expected.image is not None
    context.rule(name)
    present = environments.look(context, name)
    pointer = present.pointer
    if pointer is None:
        raise ServingRefused(
            f"--against: {name} runs nothing",
            "verify without --against: there is nothing to compare with",
        )
    release = environments.running(context, name, present).statement.predicate
    image = release.image
    if image.model != expected.model:
        raise ServingRefused(
            f"--against: {name} runs {pointer.version}, which has other weights",
            "verify without --against: it compares servers, and the gates compare weights",
        )
    base, server = _server(name, present.files, release)
    shown = pointer.image if base else server
    if shown is None:
        raise ServingRefused(
            f"--against: nothing says in which server {name} runs {pointer.version}",
            "verify without --against",
        )
    if (pointer.digest, server) == (expected.image.image, server_image or expected.image.server):
        raise ServingRefused(
            f"--against: {name} runs this server already, in {pointer.version}",
            "name the new one in serve.server or serve.base, and run `lockstep build`",
        )
    serve = context.records.at(pointer.commit).serve
    params = expected.params.model_copy(update={"serve": serve})
    here = pointer.image.startswith(reference.LAYOUT)
    running = RunningServer(
        environment=name,
        version=pointer.version,
        shown=shown,
        expected=expected._replace(params=params, image=image, path=image.path),
        runtime=lookup.at(context.root, image.commit, image.runtime),
        options=VerifyOptions(image=None if here else pointer.image, gpus=options.gpus),
        server_image=server,
    )
    if options.against_python is None:
        return running
    return stand_in(context.root, running, expected, options, Path(options.against_python))


def stand_in(
    root: Path, running: "RunningServer", new: Expected, options: VerifyOptions, python: Path
) -> "RunningServer":
    """Return a process that stands for ``running``, with the weights of ``new``, which are the same.

    Raises ServingRefused if it is the program that is verified.
    """
    from release.serving import processes

    assert new.image is not None
    assert options.runtime is not None
    runtime, verified = running.runtime, lookup.at(root, new.image.commit, options.runtime)
    if processes.program(runtime, root, python) == processes.program(verified, root):
        raise ServingRefused(
            "--against-python: names the program that is verified",
            f"name a Python with the version that {running.environment} runs",
        )
    return running._replace(
        expected=new._replace(params=running.expected.params),
        options=VerifyOptions(image=options.image, runtime=runtime.name),
        server_image=None,
        process=processes.installed(runtime, python),
        python=python,
    )


def compared(promotion: Promotion, release: Release, result: CheckResult) -> None:
    """Check that a server's upgrade was compared with the server that the environment runs, if its rules ask for that.

    An upgrade is an image with the weights that the environment runs, on another base or in another server. The signed
    report passed, so a comparison in it did. Raises EvidenceRefused if the evidence of what runs does
    not hold.
    """
    name, present = promotion.environment, promotion.present
    pointer = present.pointer
    if not promotion.rule.server_compared or pointer is None:
        return
    if pointer.model != release.image.model:
        return
    running = environments.running(promotion.context, name, present).statement.predicate
    server = _server(name, present.files, running)
    if server == _server(name, present.files, release):
        return
    runs = pointer.image if server[0] else server[1]
    against = release.serving.against
    if against is None or against.process or against.server != runs:
        seen = "was not compared with it"
        if against is not None:
            beside = f"a process of {against.process}" if against.process else against.server
            seen = f"was compared with {beside}"
        result.fail(
            f"it is another server for the weights that {name} runs in {runs}, and {seen}",
            f"run `lockstep verify --against {name}`, then `lockstep sign`",
        )


def _server(
    name: str, files: Mapping[Path, bytes], release: Release
) -> tuple[BaseImage | None, PinnedImage | None]:
    """The base of an image with its server in it, and the server's image for weights alone in the environment ``name``.

    The latter is what the release says, else what the environment names.
    """
    image = release.image
    if image.base is not None:
        return image.base, None
    return None, image.server or named_server.named(name, files) or release.serving.server
