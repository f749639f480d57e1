"""The situation of a pull request, of a verdict alone, and of a release, for ``advice.advise``."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from checks.decision.policy import Change, replaced
from checks.decision.policy_judgement import PolicyJudgement
from checks.formats.evaluation_reports import Interval
from checks.formats.verdict import Finding, Status, Verdict
from checks.process.errors import MachineRefused, ParamsRefused
from checks.stats.paired import Difference
from release.adapters import merge_conflicts
from release.pages.words import Prose, Words
from release.review import kept_abilities
from release.review.advice import Refused, Situation, Standing
from release.review.facts import Facts

if TYPE_CHECKING:
    from release.review.metrics import Score

_NAMED = 6  # files that a sentence lists


def of_facts(facts: Facts, against: "Sequence[Score]", uncompared: str) -> Situation:
    """The situation of a pull request. ``against``, ``uncompared``: of ``metrics``."""
    judgement, verdict = facts.judgement, facts.verdict
    kind, refused = _refused(facts)
    scorer = next(iter(facts.evaluation.models["candidate"].metrics)) if facts.evaluation else None
    return Situation(
        target=facts.target.ref, held=facts.state == "held", status=facts.status,
        own=verdict.status if verdict else None,
        failing=failing(facts), standings=tuple(_standing(score, verdict, scorer) for score in against),
        uncompared=uncompared,
        quarantined=None if facts.held_back is None else (facts.held_back.name, facts.held_back.why),
        refused=refused, of=kind, behind=facts.behind, unrun=facts.unrun, void=_void(facts),
        missing=facts.missing, off_branch=off_branch(facts), weaker=becomes(facts.changes),
        waits=bool(judgement and judgement.waits),
        new_server=facts.same_as_main
        and any(change.path in ("serve.server", "serve.base") for change in facts.changes),
        change=_first(facts.changes), why_policy=judgement.headline if judgement else "",
    )  # fmt: skip


def of_verdict(verdict: Verdict) -> Situation:
    """The situation of the work tree, as its verdict alone tells it."""
    undone = tuple(finding for finding in verdict.findings if finding.status != "pass")
    scorer = next(
        (
            finding.metric
            for finding in verdict.findings
            # A multiple of thoughts' tokens is no score.
            if finding.against == "main" and finding.metric and finding.kind != "thinking"
        ),
        None,
    )
    gates = [kept_abilities.gate(verdict, name, scorer) for name in ("main", "production")]
    standings = [
        _compared(gate.against or "", gate, gate)
        for gate in gates
        if gate and gate.value is not None
    ]
    return Situation(
        place="work tree", status=verdict.status, own=verdict.status,
        failing=tuple(sorted(undone, key=lambda finding: finding.status != verdict.status)),
        standings=tuple(standings),
    )  # fmt: skip


def of_release(version: str, status: Status, quarantined: str | None) -> Situation:
    """The situation of a release; ``quarantined``: why it is in quarantine, if it is."""
    return Situation(
        place="release",
        status=status,
        own=status,
        quarantined=None if quarantined is None else (version, quarantined),
    )


def of_judgement(judgement: PolicyJudgement) -> Situation:
    """The situation of the work tree's verdict under the policy of a target branch too."""
    own, target = of_verdict(judgement.own), judgement.target
    decided = of_verdict(target) if target and judgement.own.status == "pass" else own
    return decided._replace(
        target=judgement.ref, status=judgement.status, own=own.status, waits=judgement.waits,
        weaker=becomes(judgement.changes), change=_first(judgement.changes),
        why_policy=judgement.headline,
    )  # fmt: skip


def becomes(changes: Sequence[Change]) -> str:
    """Say what a merge does to the policy, such as "2 gates become weaker for everybody"."""
    if replaced(changes):
        return "the task is replaced for everybody"
    weaker = [change.path for change in changes if change.kind in ("weaker", "removed")]
    gates = len({path.split(".")[1] for path in weaker if path.startswith("gates.")})
    places = sum(change.needs_approval for change in changes)
    if gates:
        return f"{gates} gate{'s become' if gates > 1 else ' becomes'} weaker for everybody"
    return f"the policy changes in {places} place{'s' * (places > 1)} for everybody"


def _first(changes: Sequence[Change]) -> str:
    return replaced(changes) or next((change.text for change in changes), "")


def stage_refused(facts: Facts) -> str:
    """Parameters, if they were refused; else the stage that refused. The name of a verb is capitalised."""
    if facts.refused is None:
        return ""
    if facts.refused.exit_code == ParamsRefused.exit_code:
        return "Parameters"  # whichever stage read them first
    return (
        facts.refused.stage.capitalize()
        if facts.refused.stage == "estimate"
        else facts.refused.stage
    )


def failing(facts: Facts) -> tuple[Finding, ...]:
    """The gates that decided against it, under the policy that did."""
    verdict, judgement = facts.verdict, facts.judgement
    if judgement and judgement.own.status == "pass" and judgement.target:
        verdict = judgement.target
    undone = (
        [finding for finding in verdict.findings if finding.status != "pass"] if verdict else []
    )
    return tuple(
        sorted(undone, key=lambda finding: verdict is None or finding.status != verdict.status)
    )


def _refused(facts: Facts) -> tuple[Literal["data", "parameters", ""], Refused | None]:
    """Return what was refused before a verdict, and the refusal: of the data, the parameters, or anything else."""
    if facts.state == "bad-data" and facts.data:
        undone = sum(not expectation.success for expectation in facts.data.expectations)
        what = f"{undone} of {len(facts.data.expectations)} expectations fail"
        return "data", Refused("validate", what, "")
    if facts.state == "refused" and facts.refused:
        word, by = facts.refused, stage_refused(facts)
        machine = word.exit_code == MachineRefused.exit_code and word.stage != "run"
        kind: Literal["parameters", ""] = "parameters" if by == "Parameters" else ""
        return kind, Refused(by, word.what, word.todo, machine)
    if facts.state == "not-held" and facts.params is None and facts.refusal:
        return "parameters", Refused("Parameters", facts.refusal.what, facts.refusal.todo)
    if facts.refusal and merge_conflicts.HAS in facts.refusal.what:
        return "", Refused("Record", facts.refusal.what, facts.refusal.todo)
    return "", None


def _void(facts: Facts) -> str:
    """Why the verdict does not hold; empty if it does, or if there is none."""
    if facts.state != "not-held" or facts.refusal is None:
        return ""
    return facts.refusal.what.removeprefix("the verdict does not hold: ")


def off_branch(facts: Facts) -> Words | None:
    """Say what the judged commit lacks of the record; None: nothing, or no commit was asked for."""
    missing = facts.not_in_commit
    if missing is None:
        return None
    names: Mapping[str, str] = {
        f"path{number}": path for number, path in enumerate(missing.paths[:_NAMED])
    }
    listed = ", ".join(f"{{{name}}}" for name in names)
    more = f" and {len(missing.paths) - _NAMED} more" if len(missing.paths) > _NAMED else ""
    text = (
        f"lacks these files as they were judged: {listed}{more}" if names else "may lack it: {why}"
    )
    return Words(
        f"Commit {{commit}} {text}.",
        {**names, "commit": missing.commit[:12], "why": Prose(missing.why)},
    )


def _standing(score: "Score", verdict: Verdict | None, scorer: str | None) -> Standing:
    """How the model stands beside that of ``score``: by the bounds of the gate that compares both, if one does."""
    if score.how in ("absent", "same-model"):
        return Standing(score.name, "absent" if score.how == "absent" else "same")
    gate = kept_abilities.gate(verdict, score.name, scorer)
    figures = gate if gate and gate.value is not None else score.difference or score.of_gate
    return (
        Standing(score.name, "unknown") if figures is None else _compared(score.name, figures, gate)
    )


def _compared(
    name: str, figures: Finding | Interval | Difference, gate: Finding | None
) -> Standing:
    value, low, high = figures.value or 0.0, figures.low or 0.0, figures.high or 0.0
    allowed = -gate.bound if gate and gate.bound is not None and gate.bound <= 0 else None
    how: Literal["better", "worse", "alike"] = (
        "better" if low > 0 else "worse" if high < 0 else "alike"
    )
    return Standing(name, how, value, low, high, allowed)
