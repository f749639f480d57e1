"""The comment's first lines: what was decided and why, what to do next, and every gate's answer."""

from collections.abc import Iterator

from checks import layout
from checks.refused import Refused
from checks.verdict import Finding, Status, Verdict
from release.record.committed import Lacking
from release.review import metrics
from release.review.blocks import (
    Block,
    Bold,
    Bullets,
    Data,
    Folded,
    Line,
    Paragraph,
    Piece,
    Said,
    Section,
    Table,
    line,
    row,
)
from release.review.facts import Facts
from release.review.text import visible

MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}
_VOID = "🚫"
_REASONS = 20  # lines of a void verdict
_TITLE = 160  # characters of a reason in a title


def head(facts: Facts) -> Section:
    """The verdict, its reason, and what to do about it."""
    first, *others = _told(facts)
    blocks: list[Block] = [Paragraph(first), *(Paragraph(each) for each in others)]
    refusal = facts.refused or facts.refusal
    if refusal is not None and refusal.others:
        shown = refusal.others[:_REASONS]
        lines: list[Line] = [(Said(text),) for text in shown]
        if len(refusal.others) > len(shown):
            lines.append((f"…and {len(refusal.others) - len(shown)} more",))
        blocks.append(Bullets(lines))
    return Section("verdict", "", [*blocks, Paragraph((Bold(("What to do:",)), " ", *_next(facts)))], keep=100)


def title(facts: Facts) -> str:
    """The verdict in a few words: a check's title, which is no Markdown."""
    if facts.refused is not None:
        return f"{_who(facts.refused)} refused: {visible(facts.refused.what, _TITLE)}"
    if facts.state == "bad-data":
        return f"data refused: {_failed(facts)} expectations fail; nothing was trained"
    if facts.state == "void" or facts.verdict is None:
        return "void: the verdict is not about what lies here"
    if facts.state == "recorded":
        return f"{facts.verdict.status} as recorded, not asked again here"
    if facts.status == "pass" and facts.lacking is not None:
        return "pass, and the record is not on the branch: run again"
    if facts.status == "pass" and metrics.uncompared(facts):
        return "pass, not compared with main"
    undone = [finding.gate for finding in _undone(facts)]
    return f"{facts.status}: {', '.join(undone[:4])}{'…' if len(undone) > 4 else ''}" if undone else f"{facts.status}"


def answers(facts: Facts) -> Section | None:
    """Every gate: those that do not pass in sight, the others folded."""
    if facts.verdict is None or facts.state == "void":
        return None
    blocks: list[Block] = list(_tables(facts.verdict))
    judgement = facts.judgement
    if judgement and judgement.target and judgement.target.findings != judgement.own.findings:
        blocks.append(Paragraph((Bold(("Under the policy of ", Data(judgement.ref), ":")),)))
        blocks += _tables(judgement.target)
    return Section("gates", "Gates", blocks, keep=90)


def _tables(verdict: Verdict) -> Iterator[Block]:
    undone = [finding for finding in verdict.findings if finding.status != "pass"]
    done = [finding for finding in verdict.findings if finding.status == "pass"]
    if undone:
        yield _table(undone)
    if done:
        yield Folded(f"{len(done)} of {len(verdict.findings)} gates pass", [_table(done)])


def _table(findings: list[Finding]) -> Table:
    rows = [row(MARKS[each.status], Data(each.gate), Said(each.reason)) for each in findings]
    return Table(row("", "gate", "what was found"), rows)


def _told(facts: Facts) -> Iterator[Line]:
    verdict, weakened = facts.verdict, _policy(facts)
    if facts.state == "bad-data":
        yield line(
            f"{MARKS['fail']} ", Bold((f"Data refused: {_failed(facts)} of {_asked(facts)} expectations fail.",)),
            " Nothing was trained, and there is no verdict.", *weakened,
        )  # fmt: skip
        return
    if facts.refused is not None:
        yield line(
            f"{MARKS['fail']} ",
            Bold((Said(_who(facts.refused)), " refused")),
            ": ",
            Said(facts.refused.what),
            *weakened,
        )
        return
    if facts.state == "void" or verdict is None:
        why = facts.refusal.what.removeprefix("the verdict is void: ") if facts.refusal else "there is no verdict"
        yield line(f"{_VOID} ", Bold(("Void",)), ": ", Said(why), *weakened)
        return
    status = facts.status
    assert status is not None  # there is a verdict
    if facts.state == "recorded":
        yield line(
            f"{_VOID} ", Bold((f"{status.capitalize()} as recorded, not asked again here", ".")),
            " The check does not pass on a record alone.", *weakened,
        )  # fmt: skip
    elif status == "pass" and facts.lacking is not None:
        yield line(
            f"{_VOID} ", Bold(("Pass, and the record is not on the branch",)), ": ", *_lacking(facts.lacking), *weakened
        )
    elif status == "pass" and (why := metrics.uncompared(facts)):
        yield line(
            f"{MARKS['inconclusive']} ", Bold(("Pass, not compared with main",)), ": ", *_why(facts, status),
            " Of main: ", Said(why), ".", *weakened,
        )  # fmt: skip
    else:
        yield line(f"{MARKS[status]} ", Bold((status.capitalize(),)), ": ", *_why(facts, status), *weakened)
        if facts.lacking is not None:
            yield line("The record is not on the branch: ", *_lacking(facts.lacking))
    if entry := facts.held_back:
        yield line(
            Bold(("Held back: ", Data(entry.name), " had these weights, and is in quarantine",)), ": ",
            Data(entry.why), ". No promotion moves them.",
        )  # fmt: skip
    for name, runs in facts.target.runs.items():
        if runs.verified not in (None, "as-served"):
            how = "in another container" if runs.verified == "container" else f"as a {runs.verified}"
            yield line(Data(name), " runs ", Data(runs.version), f", which was verified {how}, not as it serves there.")
    if facts.state == "held" and facts.missing:
        yield line(
            "Not hashed here, because they are not here: ", *_names(facts.missing),
            ". Their digests are those that the reports name; `lockstep build` hashes what it ships.",
        )  # fmt: skip
    if facts.judgement:
        yield from (line(Said(note), ".") for note in facts.judgement.notes)
    elif facts.state == "held" and facts.target.commit is not None:
        yield line(Data(facts.target.ref), f" has no {layout.PARAMS}: there is no earlier policy to judge under.")


def _why(facts: Facts, status: Status) -> Line:
    undone = _undone(facts)
    assert facts.verdict is not None  # it was decided
    if status == "pass":
        differences = metrics.brief(facts)
        return (f"all {len(facts.verdict.findings)} gates hold{differences and '; '}{differences}.",)
    if not undone:  # the policy alone
        return (Said(facts.judgement.headline if facts.judgement else ""), ".")
    first = undone[0]
    more = f" (and {len(undone) - 1} more)" if len(undone) > 1 else ""
    other = facts.judgement is not None and facts.verdict.status == "pass"
    where: tuple[Piece, ...] = (" under the policy of ", Data(facts.target.ref)) if other else ()
    return (Data(first.gate), *where, ": ", Said(first.reason), f"{more}.")


def _policy(facts: Facts) -> Line:
    """What the pull request does to its own judge, in one sentence."""
    in_need = [change for change in facts.changes if change.needs_approval]
    if not in_need:
        return ()
    weaker = {c.path.split(".")[1] for c in in_need if c.kind != "changed" and c.path.startswith("gates.")}
    what = (
        f"Weakens {_count(len(weaker), 'gate')}" if weaker else f"Changes the policy in {_count(len(in_need), 'place')}"
    )
    if facts.judgement is None:
        return (" ", Bold((f"{what}.",)))
    judgement = facts.judgement
    if judgement.approval:
        return (" ", Bold((f"{what}: approved by ", Data(judgement.approval.by), ".")))
    return (" ", Bold((f"{what}: judged under ", Data(judgement.ref), "'s policy too.")))


def _next(facts: Facts) -> Line:
    judgement, verdict = facts.judgement, facts.verdict
    if facts.state == "bad-data":
        where = "mend the source, or a rule or bound in `params.yaml` under `prepare` and `validate`, and push."
        return (where, " `lockstep run validate` asks again in minutes, without a GPU.")
    if facts.refused is not None:
        return (Said(facts.refused.todo),)
    if facts.state == "void" or verdict is None:
        return ("run `lockstep run`, commit `dvc.lock` and `reports/`, and push.",)
    if facts.state == "recorded":
        bring = "`dvc pull data/splits data/predictions data/probes.json`"
        return (f"bring what is not here ({bring}) and ask again. Not here: ", *_names(facts.missing), ".")
    if facts.status == "pass" and facts.lacking is not None:
        again = "see why `lockstep record` did not put it there, and run again"
        return (f"{again}; or commit `dvc.lock` and `reports/` as they lie here, and push.",)
    if facts.status == "pass" and (entry := facts.held_back):
        free = f"`lockstep quarantine --release {entry.name} --why TEXT`"
        return (f"train another model; or, where the fault was not in the weights, {free} lets them move again.",)
    if facts.status == "pass" and metrics.uncompared(facts):
        push = "`dvc push` in a checkout of main that has its data"
        return (f"compare it first: {push}, then `lockstep run` here. No gate of this policy compares with main.",)
    losses = [name for name in ("main", "champion") if (found := metrics.against(facts, name)) and found.high < 0]
    if facts.status == "pass" and losses:
        than = " and ".join(str(metrics.NAMES[name]) for name in losses)
        return (f"merge it only if a model that is worse than {than} is wanted: the gates allow this loss.",)
    if facts.status == "pass":
        return ("merge it. What lands is what was judged: the release takes these digests and trains nothing again.",)
    if judgement is not None and verdict.status == "pass":
        return (
            "restore the policy of ",
            Data(judgement.ref),
            ", or let code owners approve this one: see Policy below.",
        )
    undone = _undone(facts)
    ask: Line = ("`lockstep gate --explain ", undone[0].gate, "` says what would change the answer.") if undone else ()
    if facts.status == "inconclusive":
        most = max(undone, key=lambda finding: finding.rows_needed or 0, default=None)
        needed, groups = (most.rows_needed, most.groups_needed) if most else (None, None)
        inside = f" in {groups:,} groups like these" if groups else ""
        rows = f"These rows cannot tell: about {needed:,} test rows{inside} would. " if needed else ""
        return (rows, "bring more test rows, or a margin that these can resolve, in `params.yaml`; then push. ", *ask)
    return ("change `params.yaml` or the data, and push: only what changed runs again. ", *ask)


def _undone(facts: Facts) -> list[Finding]:
    """The gates that decided against it, under the policy that did."""
    verdict = facts.verdict
    if facts.judgement and facts.judgement.own.status == "pass" and facts.judgement.target:
        verdict = facts.judgement.target
    return [finding for finding in verdict.findings if finding.status != "pass"] if verdict else []


def _names(paths: tuple[str, ...]) -> tuple[Piece, ...]:
    shown: list[Piece] = []
    for path in paths[:6]:
        shown += [", " if shown else "", Data(path)]
    return (*shown, f" and {len(paths) - 6} more") if len(paths) > 6 else tuple(shown)


def _lacking(lacking: Lacking) -> Line:
    if not lacking.paths:
        return ("commit ", Data(lacking.commit[:12]), " is not known to hold it: ", Said(lacking.why), ".")
    return ("commit ", Data(lacking.commit[:12]), " does not have, as judged: ", *_names(lacking.paths), ".")


def _who(refused: Refused) -> str:
    return refused.stage.capitalize() if refused.stage == "estimate" else refused.stage


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _failed(facts: Facts) -> int:
    return sum(not each.success for each in facts.data.expectations) if facts.data else 0


def _asked(facts: Facts) -> int:
    return len(facts.data.expectations) if facts.data else 0
