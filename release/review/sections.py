"""The comment's sections, rendered from comment.md.jinja (``templates`` says how values are escaped)."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from checks.decision.policy import replaced
from checks.formats.report import UNQUANTISED
from checks.formats.training_reports import Exported
from checks.gating import chain
from checks.records.rows import Record
from checks.storage import layout
from release.pages import templates
from release.record.records import Records
from release.review import details, metrics, situations, training
from release.review.advice import Advice
from release.review.facts import Facts

TEMPLATE = "comment.md.jinja"
# In the comment's order, with ``keep`` of each section.
_KEEP = {
    "verdict": 100, "gates": 90, "policy": 92, "parameters": 80, "flips": 50, "metrics": 95, "exported": 75,
    "slices": 30, "data": 60, "training": 40, "places": 45, "reproduce": 70, "digests": 35,
}  # fmt: skip
_SHOWN_AT_FIRST = 4  # changed parameters
_KEEP_BAD_DATA = {"verdict": 100, "data": 88}  # it refused the data: that comes first


class Section(Record):
    """A section of the comment. If there is no room, the section with the lower ``keep`` is left out first."""

    name: str
    markdown: str
    keep: int = Field(exclude=True)


def sections(
    records: Records,
    facts: Facts,
    advised: Advice,
    links: Sequence[tuple[str, str]],
    number: int | None,
    web: str | None = None,
) -> list[Section]:
    """Every section that is not empty. Raises EvidenceRefused for a link that cannot be written safely.

    ``links``: labels and addresses. ``number``: of the pull request. ``web``: where the forge shows the repository,
    such as https://github.com/OWNER/NAME; None: not known.
    """
    compared, suites = metrics.compared(facts), metrics.suites(facts)
    against = metrics.against(facts)
    standings = {
        standing.name: standing for standing in situations.of_facts(facts, against, "").standings
    }
    values = {
        "facts": facts, "links": links, "number": number, "layout": layout,
        "another_task": replaced(facts.changes),
        "advice": advised, "stage_refused": situations.stage_refused(facts), "failing": situations.failing(facts),
        "becomes": situations.becomes(facts.changes),
        "off_branch": situations.off_branch(facts), "standings": standings,
        "kept": metrics.forgot(facts.verdict, suites),
        "address_of": _addresses(facts, web), "same_as_main": facts.same_as_main,
        "evaluation": facts.evaluation, "compared": compared, "scorer": next(iter(compared), ""),
        "of_main": metrics.of_main(facts), "failed_expectations": details.failed_expectations(facts),
        "against": against, "on_valid": metrics.on_valid(facts), "look": metrics.look(facts),
        "on_old_test": metrics.on_old_test(facts),
        "confidence": metrics.confidence(facts), "slices": metrics.slices(facts), "suites": suites,
        "export": export(facts), "quantised": export_table(facts, compared, suites),
        "cheapest": metrics.cheapest(facts), "splits": details.splits(facts), "shown_at_first": _SHOWN_AT_FIRST,
        "parameters": details.parameters(facts), "needs_approval": details.needs_approval,
        "needs_seeds": details.needs_seeds(facts), "flips": details.flips(facts),
        "columns": details.columns, "shown": details.shown, "short": chain.short, "losses": training.loss(records.root),
        "sparkline": training.sparkline, "confusions": training.confusions(records.root),
        "cost": training.cost(facts, records), "figures": training.figures(facts), **training.rewards(facts),
    }  # fmt: skip
    keep = _KEEP_BAD_DATA | _KEEP | _KEEP_BAD_DATA if facts.state == "bad-data" else _KEEP
    texts = templates.sections("release.review", TEMPLATE, keep, values)
    return [
        Section(name=name, markdown=markdown, keep=keep[name]) for name, markdown in texts.items()
    ]


def _addresses(facts: Facts, web: str | None) -> dict[str, str]:
    """Where the forge shows the judged commit and its files; empty if it is not known."""
    if web is None or facts.commit is None:
        return {}
    files_at = f"{web}/blob/{facts.commit}/{facts.folder}"
    return {
        "commit": f"{web}/commit/{facts.commit}", "gates": f"{files_at}{layout.VERDICT}",
        "mistakes": f"{files_at}{layout.SUMMARY}", "parameters": f"{files_at}{layout.PARAMS}",
    }  # fmt: skip


def left_out(names: Sequence[str]) -> Section:
    """The note that replaces sections for which there is no room."""
    markdown = templates.render("release.review", TEMPLATE, "left_out_section", {"names": names})
    return Section(name="left-out", markdown=markdown, keep=0)


def export(facts: Facts) -> Exported | None:
    """How the candidate was quantised; None for one in 16 bits, or without an evaluation."""
    parity = facts.evidence.reports.parity if facts.evidence else None
    return parity.exported if parity and facts.evaluation else None


def export_table(
    facts: Facts,
    scores: Mapping[str, Sequence[metrics.Score]],
    suites: Sequence[metrics.SuiteScore],
) -> list[tuple[str, str, str]]:
    """Return bytes, scores and measured speed, each of the 16-bit model and of the export; empty without an export.

    ``scores`` and ``suites`` are those of ``release.review.metrics``.
    """
    exported, evaluation = export(facts), facts.evaluation
    parity = facts.evidence.reports.parity if facts.evidence else None
    if exported is None or evaluation is None or parity is None:
        return []
    size = sum(file.size for file in parity.files.values())
    rows = [("files, and memory for them", _megabytes(size), _megabytes(size))]
    for scorer, others in scores.items():
        full = next((score for score in others if score.name == UNQUANTISED), None)
        ours = evaluation.models["candidate"].metrics[scorer]
        if full and full.figure:
            by = f" ({full.difference.value:+.3f})" if full.difference else ""
            rows.append((scorer, f"{full.figure.value:.3f}", f"{ours.value:.3f}{by}"))
    rows += [
        (f"{suite.suite}: {suite.metric}", f"{mean:.3f}", f"{suite.own:.3f}")
        for suite in suites
        if (mean := dict(suite.others).get(UNQUANTISED)) is not None
    ]
    speeds = facts.answering.models if facts.answering else {}
    if UNQUANTISED in speeds and "candidate" in speeds:
        full_speed, speed = (
            f"{speeds[name].examples_per_second:.2f}" for name in (UNQUANTISED, "candidate")
        )
        rows.append(
            ("test rows a second in evaluate, which unpacks the weights", full_speed, speed)
        )
    return rows


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
