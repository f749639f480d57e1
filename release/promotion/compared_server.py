"""Finds the server that an environment runs, for `lockstep verify --against`, which starts it and compares."""

from checks.process.errors import ServingRefused
from release.adapters.registry import reference
from release.overlay import named_server
from release.promotion import environment as environments
from release.promotion.checklist import PromotionContext
from release.runtimes import lookup
from release.serving.against import RunningServer
from release.serving.expected import Expected
from release.serving.options import VerifyOptions


def find(
    context: PromotionContext, expected: Expected, server_image: str | None, options: VerifyOptions
) -> RunningServer:
    """Find the server of ``options.against``. ``server_image``: the new one, of weights alone.

    Raises ServingRefused if the environment runs nothing, other weights, or this very server; EvidenceRefused if there
    is no such environment, its evidence cannot be read, or no signer signed it.
    """
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
    server = None
    if image.base is None:
        # What the environment names now is what runs, whatever the release was verified in.
        server = image.server or named_server.named(name, present.files) or release.serving.server
        if server is None:
            raise ServingRefused(
                f"--against: nothing says in which server {name} runs {pointer.version}",
                "verify without --against",
            )
    if (pointer.digest, server) == (expected.image.image, server_image):
        raise ServingRefused(
            f"--against: {name} runs this server already, in {pointer.version}",
            "name the new one in serve.server or serve.base, and run `lockstep build`",
        )
    serve = context.records.at(pointer.commit).serve
    params = expected.params.model_copy(update={"serve": serve})
    here = pointer.image.startswith(reference.LAYOUT)
    return RunningServer(
        environment=name,
        version=pointer.version,
        shown=server or pointer.image,
        expected=expected._replace(params=params, image=image, path=image.path),
        runtime=lookup.at(context.root, image.commit, image.runtime),
        options=VerifyOptions(image=None if here else pointer.image, gpus=options.gpus),
        server_image=server,
    )
