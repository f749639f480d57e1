"""Commands about a running model: watch, feedback, monitor."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from release.cli.common import Group, refusing, to_json
from release.cli.tables import MARKS, one_line
from release.cli.wrapping import hanging

if TYPE_CHECKING:
    from checks.formats.watch_report import WatchFinding, WatchReport

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
_ORDER = ("fail", "inconclusive", "pass")  # of findings
_PROPOSED = {
    "opened": "opened {}",
    "updated": "updated {}",
    "closed": "none, because people closed {}",
}
_PORT = click.IntRange(1, 65535)
_CAPTURES = "Folder or address (s3://…) of the gateway's captures. Default: .lockstep/captures."


@click.command()
@click.argument("environment", metavar="ENV")
@click.option(
    "--from",
    "since",
    metavar="TIME",
    help="Start of the window: 2026-03-14 or 2026-03-14T15:09+01:00.",
)
@click.option("--to", "until", metavar="TIME", help="End of the window, which is not part of it.")
@click.option("--captures", metavar="FOLDER", help=_CAPTURES)
@click.option(
    "--evidently", metavar="PYTHON", type=click.Path(path_type=Path),
    help="Python of an environment with Evidently: also write its page, .lockstep/watch/ENV.html.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print reports/watch/ENV.json.")
@click.option(
    "--pr", is_flag=True, help="Propose retraining in a pull request where the traffic changed."
)
@click.option(
    "--rows", type=click.IntRange(0, 10_000), default=50, show_default=True,
    help="With --pr: requests to queue for labelling, at most. Their redacted text is then in git.",
)  # fmt: skip
@click.pass_obj
@refusing
def watch(
    root: Path, environment: str, since: str | None, until: str | None, captures: str | None, evidently: Path | None,
    as_json: bool, pr: bool, rows: int,
) -> None:  # fmt: skip
    """Judge a window of captured traffic of ENV: the last whole one (monitor.window_days), or from --from to --to.

    Compares the requests to the release that ENV runs with its training data and with its answers before release:
    objectives, drift of prompts and answers, refusals and other signals, and quality if there are labels. Drift is
    compared with earlier windows of the release once there are three. By chance alone, at most
    monitor.false_alarms_a_year windows a year fail. Writes reports/watch/ENV.json and a picture of it.
    Exit codes: 0 pass, 10 fail, 11 inconclusive (too few requests to tell).

    With --pr a failing finding about prompts, answers or quality opens a pull request on GitHub, or updates the open
    one. It has the report, requests to label, and the parameters to change. It needs GITHUB_TOKEN. Nothing is trained
    or merged. The exit code is then 0 whatever the verdict is.
    """
    from release.verbs import watch as verb

    options, proposal = verb.WatchOptions(since, until, captures, evidently), None
    if pr:
        report, proposal = verb.propose(root, environment, options, rows)
    else:
        report = verb.watch(root, environment, options)
    click.echo(
        to_json(report.model_dump(mode="json")) if as_json else hanging("\n".join(_shown(report)))
    )
    if pr:
        done = _PROPOSED[proposal.done].format(one_line(proposal.url)) if proposal else "none"
        click.echo(f"pull request: {done}", err=as_json)
    elif refusal := verb.refusal(report):
        raise refusal


@click.command()
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--mlflow",
    "experiment",
    metavar="EXPERIMENT",
    help="Read the assessments of this experiment's traces instead of FILE.",
)
@click.option(
    "--assessment", metavar="NAME", default="expected_response", show_default=True,
    help="With --mlflow: name of the assessments whose text is the correct answer.",
)  # fmt: skip
@click.option("--captures", metavar="FOLDER", help=_CAPTURES)
@click.pass_obj
@refusing
def feedback(
    root: Path, file: Path | None, experiment: str | None, assessment: str, captures: str | None
) -> None:
    """Store what the answers to captured requests should have been, for `lockstep watch`.

    FILE has a JSON object a line: {"request_id": "…", "label": "…"}. The id is the gateway's, from the header
    X-Request-Id of the answer.

    With --mlflow, the labels are expectations, and feedback from people, for traces of the MLflow server that
    MLFLOW_TRACKING_URI names. The id is the client_request_id of the trace or else the trace's own, as in `lockstep
    capture`. Assessments of judges, and those that only say right or wrong, are left out.
    """
    from release.verbs import feedback as verb

    if (file is None) == (experiment is None):
        raise click.UsageError("Give either FILE or --mlflow EXPERIMENT.")
    if file is not None:
        result = verb.feedback(root, file, captures)
    else:
        result = verb.feedback_from_mlflow(root, str(experiment), assessment, captures)
    for reason, count in result.left_out:
        click.echo(f"left out: {count:,} assessments: {one_line(reason)}", err=True)
    click.echo(
        f"stored {result.labels:,} labels of {result.requests:,} requests: {one_line(result.name)}"
    )


@click.group(cls=Group)
def monitor() -> None:
    """Write what monitors an environment, as files, or run it on this machine."""


@monitor.command()
@click.argument("environment", metavar="ENV")
@click.option(
    "--output",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Default: reports/monitoring/ENV.",
)
@click.pass_obj
@refusing
def rules(root: Path, environment: str, output: Path | None) -> None:
    """Write Prometheus rules, their tests and a Grafana dashboard of ENV from the section monitor.

    The files are rules.yaml (recording rules, burn-rate alerts of the objectives, alerts on metrics that are missing),
    rules_test.yaml (run `promtool test rules` on it) and dashboard.json. Write them again after a change of monitor.
    They ask for the label model, serve.name, which a scrape configuration of your own must add.
    """
    from release.verbs import monitor as verb

    for path in verb.write_rules(root, environment, output):
        click.echo(f"wrote {one_line(str(path))}")


@monitor.command()
@click.argument("environment", metavar="ENV")
@click.pass_obj
@refusing
def component(root: Path, environment: str) -> None:
    """Write the kustomize component of ENV: what Prometheus, Grafana and KEDA read in a cluster.

    The files are release/environments/ENV/monitoring: a PodMonitor, a PrometheusRule, a ConfigMap with the dashboard
    and, if monitor.scaling and monitor.alerts have ENV, a ScaledObject and an AlertmanagerConfig. Commit them, with
    `monitoring: true` in ENV's environment.yaml. Write them again after a change of monitor: `lockstep promote` refuses
    edited and outdated files. If the scaler is new, the command that keeps the number of servers is printed too.
    """
    from release.verbs import monitor as verb

    written = verb.write_component(root, environment)
    click.echo(f"wrote {one_line(str(written.folder))}")
    if written.hand_over is not None:
        click.echo(
            "before a cluster applies the scaler, keep its number of servers, which else falls to 1:"
        )
        click.echo(f"  {written.hand_over}")
        click.echo(f"with Argo CD in its default mode see {verb.HAND_OVER_PAGE} instead")


@monitor.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option(
    "--environment", default="local", show_default=True, help="What the gateway was started with."
)
@click.option(
    "--webhook",
    metavar="URL",
    help="Where to send alerts, as Alertmanager's JSON. Default: nowhere.",
)
@click.option("--port", type=_PORT, default=9090, show_default=True, help="Port of Prometheus.")
@click.option(
    "--alertmanager-port", type=_PORT, default=9093, show_default=True, help="Port of Alertmanager."
)
@click.option(
    "--interval", type=click.IntRange(1, 60), default=5, show_default=True,
    help="Seconds between two scrapes, and until an alert is sent.",
)  # fmt: skip
@click.pass_obj
@refusing
def up(root: Path, /, targets: tuple[str, ...], **options: Any) -> None:
    """Run Prometheus and Alertmanager on this machine, with rules from the section monitor of params.yaml.

    Scrapes /metrics at each TARGET, HOST:PORT, and adds the label model, serve.name. Default: 127.0.0.1:9464, the port
    of `lockstep gateway` here. Both programs listen on 127.0.0.1 and keep everything below .lockstep/monitor, where
    dashboard.json for Grafana is written too. Ctrl-C or SIGTERM ends them. They must be installed: on Debian, apt-get
    install prometheus prometheus-alertmanager.
    """
    from checks.text import escape
    from release.verbs import monitor as verb

    chosen = verb.LocalMonitorOptions(targets=targets or ("127.0.0.1:9464",), **options)
    verb.up(root, chosen, lambda line: click.echo(escape(line), err=True))


def _shown(report: "WatchReport") -> Iterator[str]:
    from release.monitoring import advice

    when = f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"
    advised = advice.advise(report)
    title = f"{report.environment} {report.version}: {advised.headline}"
    yield click.style(one_line(title), bold=True, fg=_COLOURS[report.status])
    yield f"{when}, {report.requests:,} requests, {report.prompts:,} different prompts, {report.labelled:,} labels"
    width = max((len(finding.name) for finding in report.findings), default=0)
    passed = [finding.name for finding in report.findings if finding.status == "pass"]
    for finding in sorted(report.findings, key=lambda each: _ORDER.index(each.status)):
        if finding.status != "pass":
            mark = click.style(MARKS[finding.status], fg=_COLOURS[finding.status])
            yield f"  {mark} {finding.name:<{width}}  {one_line(finding.reason)}"
            if finding.detectable is not None and finding.kind in ("objective", "quality"):
                yield f"    {'':<{width}}  {_sees(finding)}"
    if passed:
        others = "" if len(passed) == len(report.findings) else " other"
        mark, plural = (
            click.style(MARKS["pass"], fg=_COLOURS["pass"]),
            "s" if len(passed) > 1 else "",
        )
        yield f"  {mark} {len(passed)}{others} check{plural} pass{'' if plural else 'es'}: {', '.join(passed)}"
    if costs := report.costs:
        figure = f"{'about ' if costs.estimated else ''}{costs.per_1000_requests:,.4g}"
        yield f"  cost: {figure} per 1,000 requests ({costs.device_hours:,.4g} device hours)"
    for note in report.notes:
        yield f"note: {one_line(note)}"
    yield f"at most {report.alpha:.2%} of such windows fail by chance; bounds are one-sided at {report.confidence:.0%}"
    if advised.step:
        yield click.style(f"What to do: {one_line(advised.step)}.", bold=True)


def _sees(each: "WatchFinding") -> str:
    against = "below the objective" if each.kind == "objective" else "below that before release"
    return f"a share {each.detectable:.3g} {against} would be seen with 80% power"
