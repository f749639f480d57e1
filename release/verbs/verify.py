"""verify: sends requests to a server and compares its answers with those of the offline model.

The image runs in a container, as it ships; or a process of this machine serves its weights; or a running server is
checked at its URL. The result is written to reports/serving.json, whatever it is.
"""

import platform
import time
from contextlib import closing
from pathlib import Path

from checks.formats.serving import Load, ServingReport, Throughput, combine
from checks.process import distribution
from checks.process.errors import Refusal, ServingRefused
from checks.storage import files, layout
from release import runtimes
from release.evidence import verification
from release.evidence.trust import Signatory
from release.runtimes import Runtime
from release.serving import choices, examine
from release.serving.client import Client
from release.serving.expected import Expected, expected
from release.serving.options import VerifyOptions, check_options
from release.serving.probes.context import ProbeContext, failed
from release.serving.server import Server, unwinding
from release.serving.starting import LOG, NotStarted, started

__all__ = ["LOG", "VerifyOptions", "refusal", "verify"]

_NVIDIA = Path("/dev/nvidiactl")  # The device of NVIDIA's driver.


def verify(root: Path, options: VerifyOptions, signer: Signatory | None = None) -> ServingReport:
    """Start the server, run every check, write reports/serving.json and return it; ``refusal`` says whether it passed.

    ``signer`` signs the report (``verification.verifier``), and reports/serving.intoto.json is written too; None: it is
    not signed, and cannot be released. Everything that was started is stopped and removed. Raises as ``held.passing``;
    EvidenceRefused if probes or image are missing or about another model, ServingRefused if options contradict each
    other, MachineRefused if this machine lacks what is needed. Then nothing is written; if the evidence held, an
    earlier report is deleted.
    """
    check_options(options)
    with unwinding():
        report = _verify(root, options)
    files.write_json(root / layout.SERVING_REPORT, report)
    if signer is not None:
        verification.write(root, report, signer)
    return report


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


def _verify(root: Path, options: VerifyOptions) -> ServingReport:
    record = expected(root, image=options.how == "container")
    runtime = choices.choose_runtime(root, record, options)
    server_image = choices.choose_server(root, record, options)
    for path in (layout.SERVING_STATEMENT, layout.SERVING_REPORT, LOG):
        (root / path).unlink(missing_ok=True)
    load: tuple[Load, ...] = ()
    throughput: Throughput | None = None
    image = None
    began = time.monotonic()
    try:
        with started(root, record, runtime, options, server_image) as subject:
            image = subject.image
            context = _context(record, runtime, subject.server, options)
            with closing(context.client):
                checks = examine.examine(context, began)
            load, throughput = context.load, context.throughput
    except NotStarted as reason:
        seconds = record.params.serve.verify.start_seconds
        checks = examine.nothing(failed("start", str(reason), None, seconds))
    return ServingReport(
        image=image,
        server=server_image,
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
        tool=distribution.version(),
    )


def _context(
    record: Expected, runtime: Runtime, server: Server, options: VerifyOptions
) -> ProbeContext:
    params = record.params
    return ProbeContext(
        client=Client(server.url, direct=server.how != "url"),
        server=server,
        runtime=runtime,
        model=runtimes.fill(runtime, params.serve, server.model).model_field,
        serve=params.serve,
        probes=record.probes,
        rows=record.rows,
        offline=record.offline,
        scorer=params.evaluate.scorers[0],
        limit=params.evaluate.max_new_tokens,
        suites=record.suites,
        gpus=_gpus(server, options),
        sustained=any(rule.budget is not None for rule in params.promote.environments.values()),
    )


def _gpus(server: Server, options: VerifyOptions) -> tuple[str, ...] | None:
    """The GPUs that serve, as ``checks.machine.meters`` takes them; empty: the CPU does. None: that is not known.

    A running server and an engine in a virtual machine may be elsewhere. A process may use any GPU of this machine.
    """
    if options.how == "container" and server.isolated is not None:
        return tuple(options.gpus.split(",")) if options.gpus else ()
    return () if options.how == "process" and not _NVIDIA.exists() else None


def _device(options: VerifyOptions) -> str:
    """The device that it ran on, as far as it is known."""
    if options.how == "url":
        return "not known"
    return f"GPU {options.gpus}" if options.gpus else f"CPU, {platform.machine()}"
