"""status: what runs in each environment, since when and by whom, what contradicts, and what to do next.

A contradiction ends the command with an exit code of its own. Only git and the signed windows of `lockstep watch` are
read, so that it answers at once; `lockstep reconcile` checks the mirrors outside git.
"""

from collections.abc import Mapping
from pathlib import Path

from checks.process.errors import Contradicted, Refusal
from checks.records.record import problems
from checks.records.rows import Record
from release.adapters import projects
from release.evidence import windows
from release.mirrors import desired, tags
from release.mirrors.types import MirrorFinding
from release.promotion import emergency, quarantined, running
from release.review import environment_advice
from release.review.advice import Advised
from release.serving.shared_server import OnServer


class Adapter(OnServer):
    """An adapter on a server, with the costs in its own project's latest window."""

    costs: windows.WindowCosts | None = None


class State(Record):
    """One environment; ``runs`` is None if it runs nothing. ``advice``: what the reader should do about it.

    No promotion follows if shared files of it are of an earlier version of Lockstep, which ``older`` says in a line, or
    if an update could not end, for the reasons in ``stuck``. ``gap``: for how long no server answers during an update.
    ``exemption``: the exception that the release runs on. ``adapters``: all that its server has, if others are beside
    its own. ``server``: the project whose server has this adapter. ``costs``: of the release's latest window.
    """

    environment: str
    runs: running.Runs | None
    exemption: emergency.Exemption | None = None
    drift: tuple[MirrorFinding, ...]
    older: str = ""
    stuck: tuple[str, ...] = ()
    gap: str = ""
    adapters: tuple[Adapter, ...] = ()
    server: str | None = None
    costs: windows.WindowCosts | None = None
    next: running.Next | None
    advice: Advised

    @property
    def wrong(self) -> list[str]:
        """Return the contradictions, one line each."""
        quarantined = self.runs.quarantined if self.runs else None
        doubt = self.runs.doubt if self.runs else ""
        lines = problems((quarantined is not None, f"in quarantine: {quarantined}"), (doubt, doubt))
        return [*lines, *(f"{finding.what}: {finding.mirror}" for finding in self.drift)]


class Status(Record):
    """All environments as of the commit ``tip`` of ``branch``.

    ``tags``: those that contradict the moves. ``quarantine``: where the file contradicts its history.
    ``contradictions``: all that is wrong with environments, quarantine and tags, one line each. ``advice``: what the
    reader should do about quarantine and tags.
    """

    branch: str
    tip: str
    environments: tuple[State, ...]
    quarantine: tuple[str, ...]
    tags: tuple[str, ...]
    contradictions: tuple[str, ...]
    advice: tuple[Advised, ...]


def status(root: Path) -> Status:
    """Return what the environments run.

    Raises RemoteRefused if the remote does not answer, EvidenceRefused if the history is not valid.
    """
    records, ledger, tip, environments = desired.read(root)
    params = records.work_tree.release_params
    promote = params.promote
    quarantine = quarantined.here(root, ledger, tip, promote)
    seen = desired.verifications(root, ledger, tip, promote, environments)
    released = {name: environment.released for name, environment in environments.items()}
    standings = emergency.here(records, ledger, tip, promote, released)
    runs: dict[str, running.Runs | None] = {}
    states = []
    for name in promote.ordered:
        rules = promote.environments[name]
        environment = environments[name]
        moves = ledger.moves(tip, name)
        runs[name] = running.runs(
            records, params, environment.pointer, environment.envelope, moves[0],
            quarantine.entries, seen[name].otherwise,
        ) if environment.pointer and moves else None  # fmt: skip
        following = running.following(
            records, rules, runs[name], runs.get(rules.after or ""), seen[name].unfit, quarantine.entries,
        )  # fmt: skip
        standing = standings[name]
        lapsed = desired.lapsed(name, standing.problem, standing.todo)
        last = desired.last_move(name, moves)
        drift = (*lapsed, *environment.findings, *seen[name].findings, *last)
        states.append(
            _state(root, environment, runs[name], drift, following, rules.after, standing.exemption)
        )
    contradicting = quarantined.contradictions(quarantine)
    wrong = tuple(f"{what}; {todo}" for what, todo in contradicting)
    differing = tags.lines(ledger, tip, ledger.model_name(params.serve.name), promote.ordered)
    lines = [f"{state.environment}: {line}" for state in states for line in state.wrong]
    return Status(
        branch=ledger.shown, tip=tip, environments=tuple(states), quarantine=wrong, tags=tuple(differing),
        contradictions=(*lines, *wrong, *differing),
        advice=(
            *environment_advice.of_the_quarantine(contradicting), *environment_advice.of_the_tags(differing)
        ),
    )  # fmt: skip


def _state(
    root: Path,
    environment: desired.Desired,
    runs: running.Runs | None,
    drift: tuple[MirrorFinding, ...],
    following: tuple[running.Next, Mapping[running.Wait, str]] | None,
    after: str | None,
    exemption: emergency.Exemption | None,
) -> State:
    release, waits = following or (None, {})
    of_files: dict[running.Wait, str] = {
        "render": environment.older,
        "room": "; ".join(environment.stuck),
    }
    situation = environment_advice.Situation(
        environment.environment,
        version=runs.pointer.version if runs else None,
        quarantined=runs.quarantined if runs else None,
        drift=(f"{drift[0].what}: {drift[0].mirror}", drift[0].todo) if drift else None,
        exemption=exemption.line if exemption else "",
        doubt=runs.doubt if runs else "",
        after=after,
        next=(release.version or f"the model {release.model[7:19]}") if release else None,
        source=release.source if release else "",
        waits={**waits, **{wait: why for wait, why in of_files.items() if why}} if release else {},
    )
    name = environment.environment
    # To find the git root is a process of git.
    top = projects.top(root) if environment.adapters else root
    adapters = tuple(
        Adapter(
            **dict(adapter), costs=windows.costs(top / adapter.project, name, adapter.model or "")
        )
        for adapter in environment.adapters
    )
    return State(
        environment=name, runs=runs, exemption=exemption, drift=drift,
        older=environment.older, stuck=environment.stuck, gap=environment.gap, next=release,
        adapters=adapters, server=", ".join(map(str, environment.server)) or None,
        costs=windows.costs(root, name, runs.pointer.model) if runs else None,
        advice=environment_advice.advise(situation),
    )  # fmt: skip


def refusal(status: Status) -> Refusal | None:
    """Return the refusal if there is any contradiction; None otherwise."""
    if not status.contradictions:
        return None
    count = len(status.contradictions)
    counted = f"{count} contradiction{'s' * (count != 1)}"
    return Contradicted(
        f"{status.branch}: {counted}, the first: {status.contradictions[0]}",
        "see docs/reference/promotion.md for what each means, and `lockstep history` for who caused it",
    )
