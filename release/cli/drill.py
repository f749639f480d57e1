"""The command drill."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from checks.process.text import escape
from release.cli.common import FILE, JSON, TARGET, Number, refuse, refusing, show
from release.cli.tables import one_line

if TYPE_CHECKING:
    from release.promotion.bad_night import BadNight
    from release.promotion.incident_report import ExpectedDetection, Incident


@click.command()
@click.argument("environment")
@click.option(
    "--incident",
    is_flag=True,
    help="Rehearse a bad promotion: a worse model gets a share of replayed traffic until it is rolled back.",
)
@click.option(
    "--emergency",
    is_flag=True,
    help="Rehearse an emergency: a failing release is promoted, its exception expires, and a passing release heals it.",
)
@click.option(
    "--worse",
    metavar="FOLDER",
    type=FILE,
    help="With --incident: the weights of the worse model. Default: models/base.",
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    help="With --incident: most requests to send. Default: the test split.",
)
@click.option(
    "--rate", type=Number(0.001), default=2.0, show_default=True,
    help="With --incident: requests a second, if the servers are as fast.",
)  # fmt: skip
@click.option(
    "--share", type=Number(0, 1, min_open=True, max_open=True), default=0.5, show_default=True,
    help="With --incident: share of the requests that the worse model gets.",
)  # fmt: skip
@click.option(
    "--labelled", type=Number(0, 1), default=1.0, show_default=True,
    help="With --incident: share of the requests that get a label.",
)  # fmt: skip
@click.option(
    "--label-delay", type=Number(0, 86400), default=5.0, show_default=True,
    help="With --incident: seconds that the label of a right answer comes later than that of a wrong one.",
)  # fmt: skip
@click.option(
    "--window", type=Number(0, 86400, min_open=True), default=10.0, show_default=True,
    help="With --incident: seconds between two decisions.",
)  # fmt: skip
@click.option(
    "--runtime", default="transformers", show_default=True,
    help="With --incident: runtime that serves both models, as processes of this machine.",
)  # fmt: skip
@TARGET
@JSON
@click.pass_context
@refusing
def drill(
    ctx: click.Context,
    /,
    environment: str,
    incident: bool,
    emergency: bool,
    target: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Rehearse a rollback of ENVIRONMENT in a scratch clone.

    Prints the seconds of each step. Changes nothing outside the clone.

    With --incident it rehearses a bad release, from its promotion to its rollback. In the clone, ENVIRONMENT is moved
    to a worse model. A server of each model starts on this machine, behind `lockstep gateway`. Each prompt of the test
    split is sent to one of both by chance. After each window the decision of `lockstep canary` is made. Once it is
    `roll back`, the rollback is committed in the clone. Prints how long that took, and how long smaller losses would
    take. Exit codes: 0 rolled back, 11 not detected within --requests.

    With --emergency it rehearses an exception, as promote.environments.ENVIRONMENT.emergency allows it. In the clone,
    one of its gates fails, and throw-away keys sign. Prints what Lockstep answers: at one signature too few, after the
    move, after the end of the exception, at the promotion that heals it, and at a rollback.
    """
    from checks.process.errors import PromotionRefused
    from release.promotion.incident_report import IncidentOptions
    from release.verbs import drill as verb

    root: Path = ctx.obj
    if incident and emergency:
        raise click.UsageError("--incident and --emergency are two drills: run one after the other")
    if incident:
        chosen = IncidentOptions(**options, target=target)
        rehearsed = verb.incident(
            root, environment, chosen, lambda line: click.echo(escape(line), err=True)
        )
        show(rehearsed, as_json, lambda rehearsed: "\n".join(_shown(rehearsed)))
        refuse(verb.refusal(rehearsed))
        return
    for name in options:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise PromotionRefused(
                f"--{name.replace('_', '-')} works only with --incident", "add --incident"
            )
    if emergency:
        show(verb.emergency(root, environment, target), as_json, _night)
        return
    done = verb.drill(root, environment, target)
    to = done.to.version if done.to else "nothing"
    lines = [
        *(f"{step.seconds:7.2f} s  {step.what}" for step in done.steps),
        f"{done.seconds:7.2f} s  in all: {done.before.version} to {to} and back",
    ]
    show(done, as_json, "\n".join(lines))


def _night(night: "BadNight") -> str:
    lines = [f"gate {night.gate} fails, in a scratch clone: {one_line(night.before.version)} runs"]
    for step in night.steps:
        lines += [step.what, f"  {one_line(step.answer)}"]
    return "\n".join([*lines, f"not rehearsed: {', '.join(night.unchecked)}"])


def _shown(done: "Incident") -> Iterator[str]:
    version = one_line(done.production.version)
    if done.detected and done.back and done.why and done.rolled_back_after is not None:
        yield click.style(
            f"detected after {done.detected.requests:,} requests, {_time(done.detected.seconds)}",
            bold=True,
        )
        yield f"  {one_line(done.why)}"
        signed = "signed" if done.back.signed else "not signed: git's commit.gpgSign is off"
        yield click.style(
            f"rolled back to {version} after {_time(done.rolled_back_after)}", bold=True
        )
        yield f"  one commit in the scratch clone, made in {done.back.seconds:.1f} s ({signed})"
    else:
        yield click.style(f"not detected in {done.requests:,} requests", bold=True)
    yield f"the worse model answered {done.worse_requests:,} requests until then"
    if done.right is not None:
        yield f"  about {done.lost:g} of them right from {version} and wrong from it"
    yield f"traffic: {done.reached:g} requests a second of {done.rate:g} asked for, a decision every {done.window:g} s"
    bound = f"{done.false_rollbacks:.2%} of candidates within the margin of {100 * done.margin:g} points"
    yield f"false rollbacks: at most {bound}, at any number of looks"
    if done.expected:
        from release.monitoring.detection import PAIRS, STREAMS

        drawn = f"{STREAMS} simulated canaries with up to {PAIRS:,} labelled pairs, {version} right in {done.right:.0%}"
        yield f"share of smaller losses of quality that would be rolled back ({drawn}):"
        yield from (_line(row, done) for row in done.expected)
    elif not done.labelled:
        yield "without labels a loss of quality is not found"
    yield "not real in this drill:"
    yield from (f"  {line}" for line in done.simulated)


def _line(each: "ExpectedDetection", done: "Incident") -> str:
    points = f"{100 * each.loss:g} point{'' if each.loss == 0.01 else 's'}"
    points = f"  {points:>9}  {each.found:6.1%}"
    if each.loss <= done.margin:
        return f"{points}  monitor.margin allows it"
    if each.requests is None or each.seconds is None:
        return points
    return (
        f"{points}  after {each.requests:,} requests (median), {_time(each.seconds)} at this rate"
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return (
        f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
