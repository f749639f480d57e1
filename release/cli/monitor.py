"""Commands that write what monitors an environment, or run it: monitor rules, component, up."""

from pathlib import Path
from typing import Any

import click

from release.cli.common import FILE, PORT, Group, refusing
from release.cli.tables import one_line


@click.group(cls=Group)
def monitor() -> None:
    """Write what monitors an environment, as files, or run it on this machine."""


@monitor.command()
@click.argument("environment", metavar="ENV")
@click.option(
    "--output",
    metavar="FOLDER",
    type=FILE,
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

    The files are release/environments/ENV/monitoring: PodMonitors of the gateway and the servers, a PrometheusRule, a
    ConfigMap with the dashboard and, if monitor.scaling and monitor.alerts have ENV, a ScaledObject and an
    AlertmanagerConfig. If the servers have metrics, a NetworkPolicy lets Prometheus reach them. Commit them, with
    `monitoring: true` in ENV's environment.yaml. Write them again after a change of monitor: `lockstep promote` refuses
    edited and outdated files. If the scaler is new, the command that keeps the number of servers is printed too.
    """
    from release.verbs import monitor as verb

    folder, hand_over = verb.write_component(root, environment)
    click.echo(f"wrote {one_line(str(folder))}")
    if hand_over is not None:
        click.echo(
            "before a cluster applies the scaler, keep its number of servers, which else falls to 1:"
        )
        click.echo(f"  {hand_over}")
        click.echo(f"with Argo CD in its default mode see {verb.HAND_OVER_PAGE} instead")


@monitor.command()
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option(
    "--server", "servers", metavar="TARGET", multiple=True,
    help="A server that is scraped too. Can be repeated.",
)  # fmt: skip
@click.option(
    "--environment", default="local", show_default=True, help="What the gateway was started with."
)
@click.option(
    "--webhook",
    metavar="URL",
    help="Where to send alerts, as Alertmanager's JSON. Default: nowhere.",
)
@click.option("--port", type=PORT, default=9090, show_default=True, help="Port of Prometheus.")
@click.option(
    "--alertmanager-port", type=PORT, default=9093, show_default=True, help="Port of Alertmanager."
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
    from checks.process.text import escape
    from release.monitoring.local import LocalOptions
    from release.verbs import monitor as verb

    chosen = LocalOptions(targets=targets or ("127.0.0.1:9464",), **options)
    verb.up(root, chosen, lambda line: click.echo(escape(line), err=True))
