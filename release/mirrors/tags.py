"""Tags in GTO's grammar as a mirror of the moves: the only mirror in git, written by a push."""

from checks.process.errors import Refusal
from release.ledger import Change, Ledger, Move, disagreements, missing
from release.mirrors.types import MirrorFinding

_MISSING = ": is missing"


def check(
    ledger: Ledger, tip: str, name: str, environments: tuple[str, ...], fix: bool
) -> list[MirrorFinding]:
    """Return where the tags disagree with the moves. ``fix`` creates missing tags; a wrong tag is never deleted."""
    findings = [_finding(line) for line in lines(ledger, tip, name, environments)]
    absent = missing(name, ledger.tags(), _moves(ledger, tip, environments))
    if not fix or not absent:
        return findings
    try:
        ledger.commit(tip, Change({}, "", absent))
    except Refusal as refused:
        return [*findings, MirrorFinding(
            where="tags", what="making tags", git=f"{len(absent)} are missing", mirror=refused.what,
            severity="unreachable", todo=refused.todo,
        )]  # fmt: skip
    if ledger.untagged:
        findings = [*findings, MirrorFinding(
            where="tags", what="making tags", git=f"{len(absent)} are missing", mirror="; ".join(ledger.untagged),
            severity="unreachable", todo="do what the remote asks for, then run it again",
        )]  # fmt: skip
    left = {_finding(line).what for line in lines(ledger, ledger.tip(), name, environments)}
    return [
        finding.model_copy(update={"fixed": bool(finding.fix) and finding.what not in left})
        for finding in findings
    ]


def lines(ledger: Ledger, tip: str, name: str, environments: tuple[str, ...]) -> list[str]:
    """Return the same, one line each, for `lockstep status`."""
    return disagreements(name, ledger.tags(), _moves(ledger, tip, environments))


def _moves(ledger: Ledger, tip: str, environments: tuple[str, ...]) -> list[Move]:
    return [move for environment in environments for move in ledger.moves(tip, environment)]


def _finding(line: str) -> MirrorFinding:
    tag, _, reason = line.partition(": ")
    if line.endswith(_MISSING):
        return MirrorFinding(
            where="tags",
            what=tag,
            git="a move made it",
            mirror="is missing",
            severity="drift",
            fix="make it",
        )
    return MirrorFinding(
        where="tags", what=tag, git="no move says so", mirror=reason, severity="drift",
        todo=f"see who made it, then take it away: git push REMOTE :refs/tags/{tag.removeprefix('tag ')}",
    )  # fmt: skip
