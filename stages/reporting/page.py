"""The report of an evaluation for people: which model wins, by how much, and where it fails.

In:  an EvaluationReport and its predictions. Out: sentences, and a page in Markdown.

Text of rows and models is untrusted: it cannot become markup, a link, or a terminal command.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

import numpy as np

from checks.evaluation import baselines
from checks.formats.evaluation_reports import EvaluationReport, Interval
from checks.process.text import escape
from checks.records.rows import Prediction
from checks.stats import paired
from checks.storage import layout

NAMES: dict[str, str] = {
    "candidate": "the fine-tuned model",
    "base": "the base model",
    "unquantised": "the 16-bit model",
    "main": "main's model",
    "production": "production's model",
    "best": "the best release",
} | {
    str(name): phrase if phrase[0].isupper() else f"the {phrase}"
    for name, phrase in baselines.NAMES.items()
}

_MISTAKES = 10
_LONGEST = 160
_LONGEST_NOTE = 600
# Markdown's and GitHub's own: emphasis, code, links, tables, strike-through, mentions, issues, formulas, URLs.
_MARKUP = frozenset("\\`*_[]|~@#$:/")


def summary(
    predictions: Mapping[str, Sequence[Prediction]],
    metrics: Mapping[str, Mapping[str, Interval]],
    confidence: float,
) -> tuple[str, ...]:
    """Sentences on the first scorer; the first says who wins: the candidate, or the best of the others, or neither.

    Models are compared on the same rows: the interval is that of the paired difference, rows of a group together.
    """
    scorer = next(iter(metrics["candidate"]))
    ours = metrics["candidate"][scorer]
    new = {name: [not row.learned for row in rows] for name, rows in predictions.items()}
    others = (name for name in predictions if name != "candidate" and any(new[name]))
    rest = sorted(others, key=lambda name: (-metrics[name][scorer].value, name))
    sentences = []
    for place, name in enumerate(rest):
        theirs = metrics[name][scorer]
        one, two = ([*compress(predictions[side], new[name])] for side in ("candidate", name))
        groups = np.unique([row.group for row in one], return_inverse=True)[1]
        old, new_scores = ([row.score for row in side] for side in (two, one))
        gap = paired.two_sided(old, new_scores, groups, confidence)
        # Each model has rows here, and the means above are of scores from 0 to 1.
        assert gap is not None
        both = f"{NAMES[name]} scores {_figure(theirs)}, the fine-tuned model {_figure(ours)}"
        which = f"{scorer} on the same {gap.n} rows, {confidence:.0%} intervals"
        by = f"a difference of {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        best = ", the best of the others" if place == 0 and len(rest) > 1 else ""
        if gap.low > 0:
            sentence = f"The fine-tuned model beats {NAMES[name]}{best}: {both}, {by} ({which})."
        elif gap.high < 0:
            cost = (
                " The fine-tuned model does not earn its cost." if name in baselines.NAMES else ""
            )
            sentence = (
                f"{_capital(NAMES[name])} beats the fine-tuned model: {both}, {by} ({which}).{cost}"
            )
        else:
            sentence = (
                f"The fine-tuned model does not beat {NAMES[name]}{best}: {both}, {by}, too little to tell them apart "
                f"({which})."
            )
        sentences.append(sentence)
    return tuple(sentences) or (
        f"The fine-tuned model scores {_figure(ours)} ({scorer}, {ours.n} rows).",
    )


def render(report: EvaluationReport, candidate: Sequence[Prediction]) -> str:
    """Return the page."""
    return "\n".join(_lines(report, candidate)) + "\n"


def plain(text: str, longest: int = _LONGEST) -> str:
    """Untrusted text as inert inline HTML on one line, safe in a Markdown table; long text is shortened."""
    inert = _inert(text, longest)
    return f"<code>{inert}</code>" if inert else "*(empty)*"


def _lines(report: EvaluationReport, candidate: Sequence[Prediction]) -> Iterator[str]:
    first, *others = report.summary
    yield first
    yield ""
    for sentence in others:
        yield f"- {sentence}"
    scorers = list(report.models["candidate"].metrics)
    yield "\n## Models\n"
    by = f" Answered by {report.engine.named}." if report.engine else ""
    if report.decoding:
        by += f" Answers are sampled: {report.decoding.named}, {report.decoding.draws} of each row."
    if report.json_schema is not None:
        by += " Answers are made to fit a JSON Schema, where the token limit does not cut them."
    yield f"{report.rows} test rows, {report.confidence:.0%} intervals.{by}\n"
    yield f"| model | {' | '.join(scorers)} |"
    yield f"| --- |{' ---: |' * len(scorers)}"
    for name, model in report.models.items():
        yield f"| {NAMES[name]} | {' | '.join(_figure(model.metrics[s]) for s in scorers)} |"
    if report.references:
        yield "\n## Earlier models\n"
        for name, use in report.references.items():
            which = f" (`{use.merged}`)" if use.merged else ""
            yield f"- {_capital(NAMES[name])}{which}: {use.how}: {_inert(use.note, _LONGEST_NOTE)}."
    yield "\n## Slices of the fine-tuned model\n"
    yield f"| slice | rows | {' | '.join(scorers)} |"
    yield f"| --- | ---: |{' ---: |' * len(scorers)}"
    slices = report.models["candidate"].slices
    for name, metrics in sorted(slices.items(), key=lambda item: (-item[1][scorers[0]].n, item[0])):
        yield f"| {plain(name)} | {metrics[scorers[0]].n} | {' | '.join(_figure(metrics[s]) for s in scorers)} |"
    yield "\n## Mistakes of the fine-tuned model\n"
    wrong = sorted(
        (p for p in candidate if p.score < 1),
        key=lambda prediction: (prediction.score, prediction.id),
    )
    yield f"{len(wrong)} of {report.rows} rows score below 1 by {scorers[0]}."
    if wrong:
        yield f"{'The lowest ' + str(_MISTAKES) if len(wrong) > _MISTAKES else 'All'} of them, by id:\n"
        yield "| row | prompt | answer | reference | score |"
        yield "| --- | --- | --- | --- | ---: |"
    for p in wrong[:_MISTAKES]:
        texts = (plain(text) for text in (p.id, p.prompt, p.prediction, p.reference))
        yield f"| {' | '.join(texts)} | {p.score:.3g} |"
    # git has this page and not the plots: links to them would be broken where it is read.
    yield f"\nPlots: `./lockstep dvc pull {layout.PLOTS}` brings them to `{layout.PLOTS}`."
    yield f"\nThe weights judged here: `{report.merged}`. The test split: `{report.test}`."


def _inert(text: str, longest: int) -> str:
    one_line = " ".join(escape(" ".join(text.split())).split())
    cut = one_line if len(one_line) <= longest else f"{one_line[: longest - 1]}…"
    escaped = "".join(f"&#{ord(c)};" if c in _MARKUP else html.escape(c) for c in cut)
    return escaped.replace("www.", "www&#46;")


def _figure(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
