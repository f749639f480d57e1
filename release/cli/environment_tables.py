"""Renders results about environments as text: moves, quarantine, status, history, mirrors. Prints nothing."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from checks.process.text import escape
from release.cli.tables import mark, one_line, short

if TYPE_CHECKING:
    from datetime import datetime

    from checks.formats.quarantine import Entries
    from checks.formats.watch_report import Costs
    from release.cost.training_record import Took
    from release.evidence.windows import WindowCosts
    from release.promotion.move_commit import MoveResult
    from release.promotion.together import Together
    from release.review.advice import Advised
    from release.verbs.history import History
    from release.verbs.reconcile import Reconciled
    from release.verbs.status import Adapter, Status

DONE = {
    "moved": "runs {after} now",
    "already": "runs {after} already",
    "repaired": "runs {after}, and its files were written again",
    "proposed": "would run {after}: a pull request waits",
    "planned": "would run {after}",
}


def moved(done: "MoveResult") -> str:
    """One line for each check, the diff of a dry run, and the result."""
    lines = []
    for check in done.checks:
        sign = mark("fail" if check.failures else "unavailable" if check.skipped else "pass")
        notes = [failure.line for failure in check.failures] or [check.note]
        lines += [
            f"  {sign} {check.about}: {one_line(note)}" if note else f"  {sign} {check.about}"
            for note in notes
        ]
    if done.done == "planned" and done.diff:
        lines += ["", done.diff.rstrip(), ""]
    # A promotion without ``after`` could not decide it; a rollback without it empties the environment.
    nothing = "an unknown release" if hasattr(done, "url") else "nothing"
    after = done.after.version if done.after else nothing
    before = f", it ran {done.before.version}" if done.before and done.done == "moved" else ""
    lines.append(
        click.style(
            f"{done.environment} {DONE[done.done].replace('{after}', after)}{before}", bold=True
        )
    )
    if done.commit:
        lines.append(f"  commit {done.commit[:12]}  {'  '.join(done.tags)}".rstrip())
    if url := getattr(done, "url", None):
        lines.append(f"  {url}")
    return "\n".join([*lines, *(f"  note: {one_line(note)}" for note in done.notes)])


def moved_together(done: "Together[Any]") -> str:
    """Return what ``moved`` says of each project, below its name."""
    return "\n".join(f"{project}:\n{moved(move)}" for project, move in done.moves.items())


def held(entries: "Entries") -> list[str]:
    """The quarantine, one line for each entry."""
    return [
        f"{e.version or '-'}  {short(e.image)}  {one_line(e.why)} ({one_line(e.by)})"
        for e in entries
    ] or ["the quarantine is empty"]


def status(found: "Status") -> str:
    """Return what each environment runs, and what would be promoted next. A line with "!" is a contradiction."""
    width, lines = max(len(state.environment) for state in found.environments), list[str]()
    for state in found.environments:
        runs, about = state.runs, list[str]()
        if runs is None:
            about.append(
                "runs nothing" + (", or its pointer cannot be read" if state.drift else "")
            )
        else:
            about += [f"✗ quarantined: {runs.quarantined}"] if runs.quarantined is not None else []
            about += [f"✗ {state.exemption.line}"] if state.exemption else []
            pointer, who = runs.pointer, f"by {runs.by} ({runs.kind}: {runs.why})"
            about.append(f"{pointer.version}  since {runs.since:%Y-%m-%d %H:%M} UTC  {who}")
            about.append(
                f"model {short(pointer.model)}  commit {pointer.commit[:12]}  verdict {runs.verdict}"
            )
            about.append(f"image {pointer.image}")
            about += took(runs.took) if runs.took else []
            about += [f"not verified as it serves: {line}" for line in runs.otherwise]
        about += [_costs(state.costs)] if state.costs and not state.adapters else []
        about += [f"on the server of {state.server}"] if state.server else []
        about += map(_adapter, state.adapters)
        about += filter(None, [state.gap, state.older, *state.stuck])
        about += [f"! {line}" for line in state.wrong]
        if state.next is not None:
            what = state.next.version or f"model {short(state.next.model)}"
            waits = f": {'; '.join(state.next.waits)}" if state.next.waits else ""
            about.append(f"next: {what} of {state.next.source}{waits}")
        about.append(f"→ {advice(state.advice)}")
        names = [state.environment, *[""] * len(about)]
        lines += [f"{name:<{width}}  {line}" for name, line in zip(names, about, strict=False)]
    lines += [f"! {line}" for line in (*found.quarantine, *found.tags)]
    lines += [f"→ {advice(advised)}" for advised in found.advice]
    return _joined(lines)


def _adapter(adapter: "Adapter") -> str:
    if adapter.version is None:
        return f"adapter of {adapter.project}: runs nothing"
    model, base = short(adapter.model or ""), short(adapter.base or "")
    costs = f"  {_costs(adapter.costs)}" if adapter.costs else ""
    return f"adapter of {adapter.project}: {adapter.version}  model {model}  base {base}{costs}"


def _costs(costs: "WindowCosts") -> str:
    return f"{cost(costs)} from {costs.since:%Y-%m-%d} to {costs.until:%Y-%m-%d}"


def cost(costs: "Costs") -> str:
    """Return what 1,000 requests of a window cost."""
    about = "about " if costs.estimated else ""
    return f"cost: {about}{costs.per_1000_requests:,.4g} per 1,000 requests"


def advice(advised: "Advised") -> str:
    """Return in one line what the reader should do. The reason is a line above."""
    return f"{advised.mark} {advised.headline}: {advised.todo}"


def took(found: "Took") -> list[str]:
    """Return what the training took, and 1,000 requests, as far as it was measured. One line each."""
    from checks.formats import energy

    lines = []
    if training := found.training:
        price = "" if found.training_price is None else f", price {found.training_price:,.2f}"
        lines.append(
            f"training {training.seconds:,.0f} s on {training.device}{energy.after(training.energy)}{price}"
        )
    if requests := found.requests:
        cost = found.price_per_1000_requests
        figures = [] if cost is None else [f"price {cost:,.3g}"]
        figures += [] if requests.watt_hours is None else [energy.watt_hours(requests.watt_hours)]
        if figures:
            machine = f" on {requests.machine}" if requests.machine else ""
            lines.append(
                f"1,000 requests: {', '.join(figures)}, {requests.concurrency} at a time{machine}"
            )
    return lines


def history(found: "History") -> str:
    """The moves of each environment, newest first. A line with "!" says what is wrong with a move."""
    lines = []
    for name, moves in found.environments.items():
        if not moves:
            lines.append(f"{name}: nothing " + ("ran" if found.on else "was ever promoted"))
        for ran in moves:
            until = (
                f" until {_at(ran.until)}"
                if found.on and ran.until
                else " until now"
                if found.on
                else ""
            )
            old, new = (
                pointer.version if pointer else "nothing" for pointer in (ran.before, ran.after)
            )
            lines.append(
                f"{name}#{ran.number}  {_at(ran.at)}{until}  {ran.kind}  {old} → {new}  by {ran.by}: {ran.why}"
            )
            if ran.after:
                lines.append(
                    f"    image {ran.after.image}  evidence {ran.after.evidence}  commit {ran.commit}"
                )
            lines += [f"    ! {words}" for words in (ran.problem, ran.doubt) if words]
    return _joined(lines)


def reconciled(found: "Reconciled") -> str:
    """The differences between git and its mirrors, each with its fix."""
    lines = []
    for finding in found.findings:
        then = (
            "fixed" if finding.fixed else f"--fix: {finding.fix}" if finding.fix else finding.todo
        )
        lines.append(f"{finding.severity:<11}  {finding.where}: {finding.what}")
        lines += [f"{'':<13}git: {finding.git}"] if finding.git else []
        lines += [f"{'':<13}mirror: {finding.mirror}", f"{'':<13}→ {then}"]
    return _joined(
        [
            *(lines or ["git and its mirrors agree"]),
            *(f"skipped      {line}" for line in found.skipped),
        ]
    )


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(map(escape, lines))


def _at(time: "datetime") -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"
