"""verify: sends requests to a server and compares its answers with those of the offline model.

The image runs in a container, as it ships; or a process of this machine serves its weights; or a running server is
checked at its URL. The result is written to reports/serving.json, whatever it is.
"""

import contextlib
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from checks.formats.serving import Load, ServerComparison, ServingReport, Throughput, combine
from checks.machine import meters
from checks.process import distribution
from checks.process.errors import Refusal, ServingRefused
from checks.storage import files, layout
from release import runtimes
from release.evidence import verification
from release.evidence.trust import Signatory
from release.promotion import compared_server, context, neighbours
from release.serving import against, chosen_server, examine, pace
from release.serving.beside import BesideServer
from release.serving.client import Client
from release.serving.expected import Expected, expected
from release.serving.options import VerifyOptions, check_options
from release.serving.pace import Opener
from release.serving.probes import life
from release.serving.probes.context import ProbeContext, failed
from release.serving.server import Server, unwinding
from release.serving.starting import LOG, NotStarted, started

__all__ = ["LOG", "VerifyOptions", "refusal", "verify"]

_NOT_EVALUATED = "the served model is not the one that was evaluated"


def verify(root: Path, options: VerifyOptions, signer: Signatory | None = None) -> ServingReport:
    """Start the server, run every check, write reports/serving.json and return it; ``refusal`` says whether it passed.

    ``signer`` signs the report (``verification.verifier``), and reports/serving.intoto.json is written too; None: it is
    not signed, and cannot be released. Everything that was started is stopped and removed. Raises as ``held.passing``;
    EvidenceRefused if probes or image are missing or about another model, or if a report is signed by code that the
    target branch never had; ServingRefused if options contradict each other, MachineRefused if this machine lacks what
    is needed. Then nothing is written; if the evidence held, an earlier report is deleted.
    """
    check_options(options)
    if signer is not None:
        context.check_signing(root)
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
    if report.against and report.against.status == "fail":
        lines.append(f"against {report.against.environment}: {report.against.reason}")
    lines = lines or [
        f"{check.name}: {check.reason}" for check in report.checks if check.status != "pass"
    ]
    return ServingRefused(
        f"{'this server is no equal of the one that runs' if report.against else _NOT_EVALUATED}: {lines[0]}",
        f"read {layout.SERVING_REPORT}, the server's log in {LOG}, and docs/how-to/serving.md",
        tuple(lines[1:]),
    )


def _verify(root: Path, options: VerifyOptions) -> ServingReport:
    record = expected(root, image=options.how == "container" or options.against is not None)
    runtime = chosen_server.runtime(root, record, options)
    server_image = chosen_server.server_image(root, record, options)
    running: against.RunningServer | None = None
    if options.against:
        running = compared_server.find(context.find(root), record, server_image, options)
    with contextlib.ExitStack() as stack:
        beside: BesideServer | None = None
        if options.beside:
            brought = neighbours.brought(context.find(root), record, options)
            beside = stack.enter_context(brought)
        return _examined(root, record, runtime, options, server_image, running, beside)


def _examined(
    root: Path,
    record: Expected,
    runtime: runtimes.Runtime,
    options: VerifyOptions,
    server_image: str | None,
    running: against.RunningServer | None,
    beside: BesideServer | None,
) -> ServingReport:
    """Delete the earlier report, start the server, run every check, and return the report."""
    for path in (layout.SERVING_STATEMENT, layout.SERVING_REPORT, LOG):
        (root / path).unlink(missing_ok=True)
    load: tuple[Load, ...] = ()
    throughput: Throughput | None = None
    comparison: ServerComparison | None = None
    image: str | None = None
    began = time.monotonic()
    try:
        with started(root, record, runtime, options, server_image, beside=beside) as (
            server,
            image,
        ):
            new = _context(record, runtime, server, options, beside)
            with closing(new.client):
                checks = examine.examine(new, began)
            load, throughput = new.load, new.throughput
        if running is not None and combine(checks) == "pass":
            again = partial(_opened, root, record, runtime, options, server_image)
            comparison = _compared(root, running, new, again)
    except NotStarted as reason:
        start = failed("start", str(reason), None, record.params.serve.verify.start_seconds)
        checks = examine.nothing(start, record.params.serve, beside=beside is not None)
    return ServingReport(
        image=image,
        server=server_image,
        model=record.model,
        verdict=record.verdict,
        probes=record.probes_digest,
        runtime=runtime.name,
        how=options.how,
        device=chosen_server.device(options),
        checks=checks,
        load=load,
        throughput=throughput,
        against=comparison,
        beside=beside and beside.recorded,
        status=combine(checks, comparison),
        tool=distribution.version(),
    )


def _compared(
    root: Path, running: against.RunningServer, new: ProbeContext, again: Opener
) -> ServerComparison:
    """Start the server that runs, and compare. ``again`` starts the new one again, to time both by turns.

    Raises ServingRefused if one does not start or answer here.
    """
    opened = partial(
        _opened, root, running.expected, running.runtime, running.options, running.server_image,
        running.python,
    )  # fmt: skip
    try:
        with opened() as old:
            comparison = against.compare(running, new, old)
            if new.serve.verify.slower is None:
                return comparison
            if new.gpus == ():
                # An idle server takes no time of a processor, so both stay up.
                with again() as beside:
                    measured = pace.by_turns(pace.running(beside), pace.running(old))
        if new.gpus != ():
            # One GPU has no room for two servers, so each is started in its turn.
            measured = pace.by_turns(again, opened, pace.RESTARTS)
        machine = None if new.gpus is None else meters.machine(new.gpus)
        return against.timed(comparison, measured, machine, new.serve.verify)
    except NotStarted as reason:
        raise ServingRefused(
            f"--against: the server of {running.environment}, or the new one a second time, does not start here: "
            f"{reason}",
            f"read its log in {LOG}; verify on a machine where it runs, or without --against",
        ) from reason


@contextmanager
def _opened(
    root: Path,
    record: Expected,
    runtime: runtimes.Runtime,
    options: VerifyOptions,
    server_image: str | None,
    python: Path | None = None,
) -> Iterator[ProbeContext]:
    """Start a server, and yield what it is asked with once it has answered. Raises NotStarted if it does not."""
    with started(root, record, runtime, options, server_image, python) as (server, _):
        context = _context(record, runtime, server, options)
        with closing(context.client):
            answered = life.start(context, time.monotonic())
            if answered.status != "pass":
                raise NotStarted(ServingRefused(answered.reason, "read its log"))
            yield context


def _context(
    record: Expected,
    runtime: runtimes.Runtime,
    server: Server,
    options: VerifyOptions,
    beside: BesideServer | None = None,
) -> ProbeContext:
    params = record.params
    # A canary has a name of its own on the server.
    serve = params.serve.model_copy(update={"name": beside.serve.name} if beside else {})
    return ProbeContext(
        client=Client(server.url, direct=server.how != "url"),
        server=server,
        runtime=runtime,
        model=runtimes.fill(runtime, serve, server.model).model_field,
        serve=serve,
        probes=record.probes,
        rows=record.rows,
        offline=record.offline,
        scorer=params.evaluate.scorers[0],
        limit=params.evaluate.max_new_tokens,
        sampled=params.evaluate.decoding is not None,
        thinking=params.base.thinking,
        json_schema=params.evaluate.json_schema,
        suites=record.suites,
        gpus=chosen_server.gpus(server, options),
        beside=beside,
        sustained=any(rule.budget is not None for rule in params.promote.environments.values()),
    )
