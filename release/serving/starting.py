"""Starts the server that is verified: the image in a container, its weights in a process, or none for a URL.

``ask`` checks that an old image still answers: it starts it the way it was verified, and sends one request.
"""

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from checks.config.release_params import Serve
from checks.formats.serving import ImageReport
from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused, ServingRefused
from checks.records.rows import Message
from checks.storage import digest, layout
from release import runtimes
from release.adapters.registry import reference
from release.adapters.registry.documents import Store
from release.image import stores
from release.image.layout import Layout
from release.record.records import Records
from release.runtimes import Runtime, lookup
from release.serving import containers, dialects, images, processes, weights
from release.serving.beside import BesideServer
from release.serving.client import PASSING, Client, NoAnswer
from release.serving.containers import Mounted
from release.serving.expected import Expected
from release.serving.options import VerifyOptions
from release.serving.progress import Progress
from release.serving.server import Server, attach, unwinding, wait_until

LOG = layout.STATE / "serving.log"  # The log of the server that was started last.
_QUESTION = (Message(role="user", content="hello"),)


class NotStarted(Exception):  # noqa: N818 - a result, which is recorded
    """The server could not be started. That is the server's fault, and so a failed check."""

    def __init__(self, reason: ServingRefused) -> None:
        super().__init__(" / ".join((reason.what, *reason.others[-5:])))


@contextmanager
def started(
    root: Path,
    expected: Expected,
    runtime: Runtime,
    options: VerifyOptions,
    server_image: str | None,
    python: Path | None = None,
    beside: BesideServer | None = None,
) -> Iterator[tuple[Server, str | None]]:
    """Start or find the server; at the end it is stopped and removed, and its log is written to LOG.

    Yield it, and the digest of the image that it runs or whose weights it serves, if known. ``python``: as
    ``processes.program`` takes it. ``beside``: other adapters for the server, and its parameters with them.

    Raises NotStarted if it does not start.
    """
    if options.url is not None:
        yield attach(options.url, expected.mounted), None
        return
    serve = expected.params.serve
    if beside is not None:
        serve, runtime = beside.serve, beside.loaded(runtime, options.how)
    with ExitStack() as stack:
        if options.how == "process":
            folder = stack.enter_context(_weights(root, expected, options))
            with _not_started():
                server: Server = processes.start(runtime, serve, folder, root, python)
        else:
            assert expected.image is not None  # ``expected`` was asked for one
            mounted = None
            if server_image is None:
                name = stack.enter_context(_in_engine(root, expected.image, options))
            else:
                name = server_image
                folder = stack.enter_context(_weights(root, expected, options))
                filled = runtimes.fill(runtime, serve, expected.mounted)
                mounted = Mounted(folder, expected.mounted, filled, beside.mounts if beside else {})
            with _not_started():
                server = containers.start(name, runtime, expected.mounted, options.gpus, mounted)
        stack.callback(server.close)
        stack.callback(_keep_log, root, server)
        yield server, expected.image.image if expected.image else None


@contextmanager
def _not_started() -> Iterator[None]:
    """Turn the refusal of a server that does not start into NotStarted."""
    try:
        yield
    except ServingRefused as reason:
        raise NotStarted(reason) from reason


def _keep_log(root: Path, server: Server) -> None:
    """Write the server's log to LOG."""
    with contextlib.suppress(OSError):  # The log explains, and decides nothing.
        (root / LOG).parent.mkdir(parents=True, exist_ok=True)
        (root / LOG).write_bytes(server.log())


@contextmanager
def _in_engine(root: Path, report: ImageReport, options: VerifyOptions) -> Iterator[str]:
    """Yield the image's name for the Docker Engine: in a registry, or loaded from the layout for the block."""
    if _is_in_layout(report, options):
        with images.loaded(_store(root, report, options), report.image) as name:
            yield name
    else:
        _reference(report, options)
        yield options.image or f"{report.place}@{report.image}"


@contextmanager
def _weights(root: Path, expected: Expected, options: VerifyOptions) -> Iterator[Path]:
    """Yield a folder of the weights: those of the image, unpacked for the block, or those that were merged here."""
    if expected.image is not None:
        store = _store(root, expected.image, options)
        with weights.unpacked(root, store, expected.image) as folder:
            yield folder
        return
    folder = root / layout.MERGED
    with Progress(f"hash {layout.MERGED}", unit="B") as bar:
        actual = digest.of_tree(folder, bar.update).digest
    if actual != expected.model:
        raise EvidenceRefused(
            f"{layout.MERGED}: is {actual}, the verdict is about {expected.model}",
            "run `./lockstep run`",
        )
    yield folder


def _is_in_layout(report: ImageReport, options: VerifyOptions) -> bool:
    """Tell whether the image is where `lockstep build` put it, in an OCI layout."""
    return options.image is None and report.place.startswith(reference.LAYOUT)


def _store(root: Path, report: ImageReport, options: VerifyOptions) -> Store:
    """Return the store of the image. Raises EvidenceRefused if it is a layout that is not here."""
    if not _is_in_layout(report, options):
        return stores.open_store(_reference(report, options), root)
    if not (root / layout.IMAGE).is_dir():
        raise EvidenceRefused(
            f"{layout.IMAGE}: there is no OCI layout here that could hold {report.image}",
            f"name the image where it was pushed, HOST/NAME@{report.image}, or run `lockstep build`",
        )
    return Layout(root / layout.IMAGE)


def _reference(report: ImageReport, options: VerifyOptions) -> reference.Reference:
    """Return the image's name. Raises EvidenceRefused if it is not the image that was built."""
    name = options.image or f"{report.place}@{report.image}"
    named = reference.parse(name)
    if named.digest != report.image:
        raise EvidenceRefused(
            f"{name}: is not the image that {layout.IMAGE_REPORT} is about, {report.image}",
            f"name it with @{report.image}",
        )
    return named


def ask(root: Path, store: Store, named: reference.Reference, release: Release) -> str:
    """Start the image (in Docker, or for weights alone as a process), wait for one answer, and return the seconds.

    Everything that was started is removed. Raises ServingRefused if it does not start or answer in time, MachineRefused
    if this machine cannot start it.
    """
    report, serve = release.image, Records(root).at(release.commit).serve
    runtime = lookup.at(root, report.commit, report.runtime)
    with unwinding(), _old_image(root, store, named, report, runtime, serve) as server:
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
        if error.status is not None and 400 <= error.status < 500 and error.status not in PASSING:
            raise ServingRefused(
                f"the server refuses a right request: {error}", "roll back to another release"
            ) from error
        return False
    return True


@contextmanager
def _old_image(
    root: Path,
    store: Store,
    named: reference.Reference,
    report: ImageReport,
    runtime: Runtime,
    serve: Serve,
) -> Iterator[Server]:
    with ExitStack() as stack:
        if report.base is not None:
            name = str(named)
            if named.host is None:
                name = stack.enter_context(images.loaded(store, report.image))
            yield stack.enter_context(closing(containers.start(name, runtime, report.path)))
            return
        if runtime.package is None:
            raise ServingRefused(
                f"the image holds weights alone, and {runtime.name} runs in its image alone",
                "leave it unasked, or ask an image with a server in it",
            )
        folder = stack.enter_context(weights.unpacked(root, store, report))
        yield stack.enter_context(closing(processes.start(runtime, serve, folder, root)))
