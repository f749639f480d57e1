"""verify: sends requests to a server and compares its answers with those of the offline model.

The image runs in a container, as it ships; or a process of this machine serves its weights; or a running server is
checked at its URL. The result is written to reports/serving.json, whatever it is.
"""

import contextlib
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from checks.formats.serving import ImageReport, Load, ServingReport, Throughput, combine
from checks.process.errors import EvidenceRefused, Refusal, ServingRefused
from checks.storage import digest, files, layout
from release import runtimes
from release.adapters.registry import reference
from release.evidence import verification
from release.evidence.verification import Verifier
from release.image import stores
from release.image.layout import Layout
from release.overlay import named_server as servers
from release.record import running_code
from release.runtimes import Runtime
from release.serving import containers, dialects, examine, images, processes, running, weights
from release.serving.client import Client
from release.serving.containers import Mounted
from release.serving.expected import Expected, expected
from release.serving.probes.context import ProbeContext, failed
from release.serving.progress import Progress
from release.serving.server import Server, unwinding

_NVIDIA = Path("/dev/nvidiactl")  # of NVIDIA's driver
LOG = layout.STATE / "serving.log"  # The log of the server that was started last.


class VerifyOptions(NamedTuple):
    """The options of a verification.

    ``image``: the built image in a registry, HOST/NAME[:TAG]@sha256:…; None: where `lockstep build` put it. ``url``:
    check a running server. ``runtime``: with a URL, the runtime of that server (None: as the image was built, or
    serve.runtime); without one, serve the weights with it in a process instead of Docker (if nothing was built, those
    of models/merged). ``gpus``: for the container, ``all`` or devices separated by commas. ``server``: the server image
    NAME@sha256:… for an image with weights alone; None: the one that the environments name. ``signer``: signs the
    report (``verification.verifier``); None: it is not signed, and cannot be released.
    """

    image: str | None = None
    url: str | None = None
    runtime: str | None = None
    gpus: str | None = None
    server: str | None = None
    signer: Verifier | None = None

    @property
    def how(self) -> Literal["container", "process", "url"]:
        """How the server is run: ``container``, ``process`` or ``url``."""
        if self.url is not None:
            return "url"
        return "container" if self.runtime is None else "process"


class _Subject(NamedTuple):
    """A started server with its runtime. ``image``: digest of the image that it runs or whose weights it serves, if
    known.
    """

    server: Server
    runtime: Runtime
    image: str | None


def verify(root: Path, options: VerifyOptions) -> ServingReport:
    """Start the server, run every check, write reports/serving.json and return it; ``refusal`` says whether it passed.

    With a signer, writes reports/serving.intoto.json too. Everything that was started is stopped and removed. Raises as
    ``held.hold``; EvidenceRefused if probes or image are missing or about another model, ServingRefused if options
    contradict each other, MachineRefused if this machine lacks what is needed. Then nothing is written; if the evidence
    held, an earlier report is deleted.
    """
    if options.url is not None and options.image is not None:
        raise ServingRefused("an image and a URL are two ways to verify", "name one of them")
    if options.gpus is not None and options.how != "container":
        raise ServingRefused(
            f"GPUs are given to a container, not to a {options.how}", "leave them out"
        )
    with unwinding():
        report = _verify(root, options)
    files.write_json(root / layout.SERVING_REPORT, report)
    if options.signer is not None:
        verification.write(root, report, options.signer)
    return report


def _verify(root: Path, options: VerifyOptions) -> ServingReport:
    running_code.check(root, committed=True)
    record = expected(root, image=options.how == "container")
    runtime = _runtime(record, options)
    _refuse_tools(record, runtime)
    server = _server(root, record, options)
    for path in (layout.SERVING_STATEMENT, layout.SERVING_REPORT, LOG):
        (root / path).unlink(missing_ok=True)
    load: tuple[Load, ...] = ()
    throughput: Throughput | None = None
    image = None
    began = time.monotonic()
    try:
        with _served(root, record, runtime, options, server) as subject:
            image = subject.image
            context = _context(record, subject, _gpus(subject.server, options))
            with closing(context.client):
                checks = examine.examine(context, began)
            load, throughput = context.load, context.throughput
    except _NotStarted as reason:
        checks = examine.nothing(
            failed("start", str(reason), None, record.params.serve.verify.start_seconds)
        )
    return ServingReport(
        image=image,
        server=server,
        model=record.model,
        verdict=record.verdict,
        probes=record.probes_digest,
        runtime=runtime.name,
        how=options.how,
        device=_device(options),
        checks=checks,
        load=load,
        throughput=throughput,
        status=combine(checks),
        tool=metadata.version("lockstep"),
    )


def _refuse_tools(held: Expected, runtime: Runtime) -> None:
    """Refuse to ask a server about tools that answers otherwise once a request has some."""
    asked = [("probe", probe.id) for probe in held.probes.probes if probe.tools]
    asked += [("row", row.id) for row in held.rows if row.tools]
    if asked and dialects.SPEECHES[runtime.dialect].raw is None:
        raise ServingRefused(
            f"{' '.join(asked[0])} has tools, and {runtime.name} does not return such an answer as the model writes it",
            "set serve.runtime to vllm, and build again",
        )


def refusal(report: ServingReport) -> Refusal | None:
    """The refusal with every failed check; None for ``pass``."""
    if report.status == "pass":
        return None
    lines = [f"{check.name}: {check.reason}" for check in report.checks if check.status == "fail"]
    lines = lines or [
        f"{check.name}: {check.reason}" for check in report.checks if check.status != "pass"
    ]
    return ServingRefused(
        f"the served model is not the one that was evaluated: {lines[0]}",
        f"read {layout.SERVING_REPORT}, the server's log in {LOG}, and docs/how-to/serving.md",
        tuple(lines[1:]),
    )


class _NotStarted(Exception):  # noqa: N818 - a result, which is recorded
    """The server could not be started. That is the server's fault, and so a failed check."""

    def __init__(self, reason: ServingRefused) -> None:
        super().__init__(" / ".join((reason.what, *reason.others[-5:])))


def _runtime(held: Expected, options: VerifyOptions) -> Runtime:
    """The runtime of the server. Raises before anything is started if it cannot be used."""
    built = held.image.runtime if held.image else held.params.serve.runtime
    runtime = runtimes.load(options.runtime or built)
    if options.how == "url":
        return runtime
    if options.how == "process":
        if runtime.package is None:
            raise ServingRefused(
                f"{runtime.name} runs in its image alone",
                "verify the image, or serve with --runtime transformers",
            )
        return runtime
    return runtime


def _server(root: Path, held: Expected, options: VerifyOptions) -> str | None:
    """The server image, NAME@sha256:…, for an image with weights alone; None if none is needed.

    Raises ServingRefused if it is needed and unknown, or named and not needed.
    """
    alone = options.how == "container" and held.image is not None and held.image.base is None
    if not alone:
        if options.server is not None:
            raise ServingRefused(
                "a server's image is for weights alone, in a container", "leave --server out"
            )
        return None
    if options.server is not None and not servers.SERVER.fullmatch(options.server):
        raise ServingRefused(
            f"{options.server[:100]!r}: is not a server image with a digest", "write NAME@sha256:…"
        )
    named = servers.of_all(root) if options.server is None else (options.server,)
    if len(named) != 1:
        what = (
            f"the environments name {len(named)} servers for them"
            if named
            else "no environment names one"
        )
        raise ServingRefused(
            f"the image holds the weights and no server, and {what}",
            "name one by --server NAME@sha256:…; or serve the weights in a process by --runtime transformers",
        )
    return named[0]


@contextmanager
def _served(
    root: Path, held: Expected, runtime: Runtime, options: VerifyOptions, server_image: str | None
) -> Iterator[_Subject]:
    """The server, started or found. It is stopped and removed afterwards. Raises _NotStarted if it does not start."""
    if options.url is not None:
        yield _Subject(running.attach(options.url, held.mounted), runtime, None)
    elif options.how == "process":
        with _weights(root, held, options) as (folder, image):
            try:
                server: Server = processes.start(runtime, held.params.serve, folder, root)
            except ServingRefused as reason:
                raise _NotStarted(reason) from reason
            with closing(server), _keeping_log(root, server):
                yield _Subject(server, runtime, image)
    else:
        assert held.image is not None  # ``expected`` was asked for one
        with _container(root, held, runtime, options, server_image) as (name, mounted):
            try:
                server = containers.start(name, runtime, held.mounted, options.gpus, mounted)
            except ServingRefused as reason:
                raise _NotStarted(reason) from reason
            with closing(server), _keeping_log(root, server):
                yield _Subject(server, runtime, held.image.image)


@contextmanager
def _container(
    root: Path, held: Expected, runtime: Runtime, options: VerifyOptions, server: str | None
) -> Iterator[tuple[str, Mounted | None]]:
    """Return what the Docker Engine runs: the image; or for weights alone the server image with the weights mounted."""
    assert held.image is not None
    if server is None:
        with _image(root, held.image, options) as name:
            yield name, None
    else:
        with _weights(root, held, options) as (folder, _):
            yield (
                server,
                Mounted(
                    folder, held.mounted, runtimes.fill(runtime, held.params.serve, held.mounted)
                ),
            )


@contextmanager
def _keeping_log(root: Path, server: Server) -> Iterator[None]:
    """Write the server's log to LOG, also after a failure."""
    try:
        yield
    finally:
        path = root / LOG
        with contextlib.suppress(OSError):  # the log explains, and decides nothing
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(server.log())


@contextmanager
def _image(root: Path, report: ImageReport, options: VerifyOptions) -> Iterator[str]:
    """The image for the Docker Engine: a name in a registry, or the image of the layout, loaded into the engine."""
    if name := options.image or _pushed(report):
        _is_built(name, report)
        yield name
        return
    with images.loaded(_layout(root, report), report.image) as name:
        yield name


@contextmanager
def _weights(
    root: Path, held: Expected, options: VerifyOptions
) -> Iterator[tuple[Path, str | None]]:
    """A folder of the weights, and the image that they came from. A folder made here is deleted afterwards."""
    if held.image is None:
        folder = root / layout.MERGED
        with Progress(f"hash {layout.MERGED}", unit="B") as bar:
            actual = digest.of_tree(folder, bar.update).digest
        if actual != held.model:
            raise EvidenceRefused(
                f"{layout.MERGED}: is {actual}, the verdict is about {held.model}",
                "run `./lockstep run`",
            )
        yield folder, None
        return
    if name := options.image or _pushed(held.image):
        named = _is_built(name, held.image)
        store = stores.open_store(named, root)
    else:
        store = _layout(root, held.image)
    state = root / layout.STATE
    state.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="serving-", dir=state))
    try:
        yield weights.unpack(store, held.image, home), held.image.image
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _pushed(report: ImageReport) -> str | None:
    """The image's name in the registry that it was pushed to; None if it is in an OCI layout."""
    return None if report.place.startswith(reference.LAYOUT) else f"{report.place}@{report.image}"


def _is_built(name: str, report: ImageReport) -> reference.Reference:
    named = reference.parse(name)
    if named.digest != report.image:
        raise EvidenceRefused(
            f"{name}: is not the image that {layout.IMAGE_REPORT} is about, {report.image}",
            f"name it with @{report.image}",
        )
    return named


def _layout(root: Path, report: ImageReport) -> Layout:
    if not (root / layout.IMAGE).is_dir():
        raise EvidenceRefused(
            f"{layout.IMAGE}: there is no OCI layout here that could hold {report.image}",
            f"name the image where it was pushed, HOST/NAME@{report.image}, or run `lockstep build`",
        )
    return Layout(root / layout.IMAGE)


def _gpus(server: Server, options: VerifyOptions) -> tuple[str, ...] | None:
    """The GPUs that serve, as ``checks.machine.meters`` takes them; empty: the CPU does. None: that is not known.

    A running server and an engine in a virtual machine may be elsewhere. A process may use any GPU of this machine.
    """
    if options.how == "container":
        return (
            None
            if server.isolated is None
            else tuple(options.gpus.split(","))
            if options.gpus
            else ()
        )
    return () if options.how == "process" and not _NVIDIA.exists() else None


def _context(held: Expected, subject: _Subject, gpus: tuple[str, ...] | None) -> ProbeContext:
    params, server = held.params, subject.server
    return ProbeContext(
        client=Client(server.url, direct=server.how != "url"),
        server=server,
        runtime=subject.runtime,
        model=runtimes.fill(subject.runtime, params.serve, server.model).model_field,
        serve=params.serve,
        probes=held.probes,
        rows=held.rows,
        offline=held.offline,
        scorer=params.evaluate.scorers[0],
        limit=params.evaluate.max_new_tokens,
        suites=held.suites,
        gpus=gpus,
        sustained=any(rule.budget is not None for rule in params.promote.environments.values()),
    )


def _device(options: VerifyOptions) -> str:
    """The device that it ran on, as far as it is known."""
    if options.how == "url":
        return "not known"
    return f"GPU {options.gpus}" if options.gpus else f"CPU, {platform.machine()}"
