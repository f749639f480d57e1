"""Checks that an old image still answers: starts it the way it was verified, and sends one request."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from checks.config.release_params import Serve
from checks.formats.serving import ImageReport
from checks.formats.statement import Release
from checks.process.errors import ServingRefused
from checks.records.rows import Message
from release import runtimes
from release.adapters.registry.documents import Store
from release.adapters.registry.reference import Reference
from release.record.records import Records
from release.runtimes import Runtime, lookup
from release.serving import containers, dialects, images, processes, weights
from release.serving.client import Client, NoAnswer
from release.serving.server import Server, unwinding, wait_until

_QUESTION = (Message(role="user", content="hello"),)
_PASSING = (408, 425, 429)  # refusals of now, not of the request


def ask(root: Path, store: Store, named: Reference, release: Release) -> str:
    """Start the image (in Docker, or for weights alone as a process), wait for one answer, and return the seconds.

    Everything that was started is removed. Raises ServingRefused if it does not start or answer in time, MachineRefused
    if this machine cannot start it.
    """
    report, serve = release.image, Records(root).at(release.commit).serve
    runtime = lookup.at(root, report.commit, report.runtime)
    with unwinding(), _started(root, store, named, report, runtime, serve) as server:
        model = runtimes.fill(runtime, serve, server.model).model_field
        with closing(Client(server.url)) as client:
            seconds = wait_until(
                server, lambda: _answers(client, runtime, model), serve.verify.start_seconds
            )
    return f"it answered after {seconds:.1f} s, as a {server.how}"


def _answers(client: Client, runtime: Runtime, model: str) -> bool:
    try:
        dialects.chat(client, dialects.SPEECHES[runtime.dialect], model, _QUESTION, 1)
    except NoAnswer as error:
        if error.status is not None and 400 <= error.status < 500 and error.status not in _PASSING:
            raise ServingRefused(
                f"the server refuses a right request: {error}", "roll back to another release"
            ) from error
        return False
    return True


@contextmanager
def _started(
    root: Path, store: Store, named: Reference, report: ImageReport, runtime: Runtime, serve: Serve
) -> Iterator[Server]:
    if report.base is None:
        if runtime.package is None:
            todo = "leave it unasked, or ask an image with a server in it"
            raise ServingRefused(
                f"the image holds weights alone, and {runtime.name} runs in its image alone", todo
            )
        with (
            weights.unpacked(root, store, report) as folder,
            closing(processes.start(runtime, serve, folder, root)) as process,
        ):
            yield process
    elif named.host is None:
        with (
            images.loaded(store, report.image) as name,
            closing(containers.start(name, runtime, report.path)) as container,
        ):
            yield container
    else:
        with closing(containers.start(str(named), runtime, report.path)) as container:
            yield container
