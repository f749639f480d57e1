"""The outcome that a comment reports, its title, and the gates that decided."""

from typing import Literal

from checks.errors import MachineRefused, ParamsRefused
from checks.formats.verdict import Finding, Status
from release.review.facts import Facts
from release.review.text import visible

Outcome = (
    Literal["bad-data", "refused", "not-held", "recorded", "not-landed", "uncompared", "policy", "waits", "quarantined"]
    | Status
)
_LONGEST = 160  # characters of a reason in a title


def outcome(facts: Facts, uncompared: str) -> Outcome:
    """The outcome of the first line. ``quarantined``: no environment may run these weights, whatever the gates say.

    ``policy``: the gates pass, and only the target's policy decides against it.

    ``waits``: they pass under both policies, and code owners have not approved the new one.
    ``uncompared``: why the model was not compared with main's, see ``metrics``.
    """
    if facts.held_back:
        return "quarantined"
    if facts.state != "held":
        return facts.state
    assert facts.verdict is not None  # it was asked again
    assert facts.status is not None
    if facts.judgement and facts.judgement.waits:
        return "waits"
    if facts.status != "pass":
        return "policy" if facts.judgement and facts.verdict.status == "pass" else facts.status
    if facts.not_in_commit is not None:
        return "not-landed"
    return "uncompared" if uncompared else "pass"


def passes(facts: Facts) -> bool:
    """The value of the check: the verdict holds, is a pass, is in the named commit, and no quarantine has its model."""
    return facts.state == "held" and facts.status == "pass" and facts.not_in_commit is None and facts.held_back is None


def title(facts: Facts, uncompared: str) -> str:
    """The verdict in a few words, for the title of a check, which is not Markdown."""
    match outcome(facts, uncompared):
        case "refused" if facts.refused:
            return f"{who(facts)} refused: {visible(facts.refused.what, _LONGEST)}"
        case "bad-data" if facts.data:
            failed = sum(not each.success for each in facts.data.expectations)
            return f"data refused: {failed} of {len(facts.data.expectations)} expectations fail; nothing was trained"
        case "not-held" if facts.params is None:
            return "parameters refused"
        case "not-held":
            return "the verdict does not hold: files changed"
        case "recorded":
            return f"not judged here: the record says {facts.status}"
        case "not-landed":
            return "pass, and the record is not on the branch: run again"
        case "uncompared":
            return "pass, not compared with main"
        case "quarantined" if facts.held_back:
            return f"quarantined: {visible(facts.held_back.why, _LONGEST)}"
        case "waits":
            return f"pass, but {becomes(facts)}: a code owner decides"
    gates = [finding.gate for finding in failing(facts)]
    return f"{facts.status}: {', '.join(gates[:4])}{'…' * (len(gates) > 4)}" if gates else f"{facts.status}"


def becomes(facts: Facts) -> str:
    """What a merge does to the policy, such as "2 gates become weaker for everybody"."""
    gates, places = len(facts.weakened), sum(change.needs_approval for change in facts.changes)
    if gates:
        return f"{gates} gate{'s become' if gates > 1 else ' becomes'} weaker for everybody"
    return f"the policy changes in {places} place{'s' * (places > 1)} for everybody"


def who(facts: Facts) -> str:
    """Parameters, if they were refused; else the stage that refused. The name of a verb is capitalised."""
    if facts.refused and facts.refused.exit_code == ParamsRefused.exit_code:
        return "Parameters"  # whichever stage read them first
    stage = facts.refused.stage if facts.refused else ""
    return stage.capitalize() if stage == "estimate" else stage


def machine_refused(facts: Facts) -> bool:
    """Whether a stage refused because of the machine, such as its free memory, not because of the change."""
    word = facts.refused
    return word is not None and word.exit_code == MachineRefused.exit_code and word.stage != "run"


def failing(facts: Facts) -> list[Finding]:
    """The gates that decided against it, under the policy that did."""
    verdict, judgement = facts.verdict, facts.judgement
    if judgement and judgement.own.status == "pass" and judgement.target:
        verdict = judgement.target
    return [finding for finding in verdict.findings if finding.status != "pass"] if verdict else []
