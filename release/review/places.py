"""Where to look, how to do it again on one's own machine, and the digests that all of it is about."""

from collections.abc import Sequence

from checks import layout
from release.review.blocks import Block, Bullets, Code, Data, Folded, Line, Link, Section, Table, row
from release.review.facts import Facts

_MOST = 40


def look(facts: Facts, links: Sequence[tuple[str, str]]) -> Section | None:
    """``links``: labels and addresses that went through ``blocks.address``."""
    lines: list[Line] = [(Link(label, url),) for label, url in links]
    if facts.training is not None:
        lines.append(("MLflow run ", Data(facts.training.mlflow_run)))
    if facts.state != "void" and facts.data is not None:
        lines.append((f"Data Docs: `{layout.DATA_DOCS / 'index.html'}` (`dvc pull {layout.DATA_DOCS}` brings them)",))
    if facts.state in ("held", "recorded"):
        lines.append((f"Every mistake: `{layout.SUMMARY}`; every figure: `{layout.EVALUATION}`, `{layout.VERDICT}`",))
    return Section("places", "Where to look", [Bullets(lines)], keep=45) if lines else None


def again(facts: Facts, number: int | None) -> Section:
    """Commands for a clone of this repository."""
    commit = facts.commit
    fetch = [f"git fetch origin pull/{number}/head"] if number is not None else []
    lines = [*fetch, f"git checkout {commit}"] if commit else []
    ask = "lockstep gate" if facts.judgement is None else f"lockstep gate --policy-from {facts.judgement.commit[:12]}"
    if facts.refused is not None and facts.refused.stage == "estimate":
        lines += ["lockstep run validate", "lockstep estimate"]
    elif facts.refused is not None:
        lines += ["dvc pull --allow-missing", "lockstep run"]
    else:
        lines += ["lockstep run validate"] if facts.state == "bad-data" else ["dvc pull", "lockstep run", ask]
    return Section("reproduce", "", [Folded("Do it again on your machine", [Code(lines)])], keep=70)


def digests(facts: Facts) -> Section | None:
    """Whole, for whoever compares."""
    rows = []
    if facts.commit:
        rows.append(row("commit", Data(facts.commit)))
    if facts.target.commit:
        rows.append(row(("of ", Data(facts.target.ref)), Data(facts.target.commit)))
    if facts.verdict is not None and facts.state != "void":
        verdict = facts.verdict
        if verdict.model:
            rows.append(row("model", Data(verdict.model)))
        rows.append(row("gates", Data(verdict.policy)))
        if facts.judgement:
            rows.append(row("policy", Data(facts.judgement.policy)))
        rows += [row(Data(path), Data(value)) for path, value in verdict.judged.items()]
    elif facts.data is not None:
        rows += [row(Data(f"{name} split"), Data(value)) for name, value in facts.data.splits.items()]
    if not rows:
        return None
    table: Block = Table(row("what", "digest"), rows[:_MOST], frozenset(), max(0, len(rows) - _MOST))
    return Section("digests", "", [Folded(f"Digests: {len(rows)}", [table])], keep=35)
