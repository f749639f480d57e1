"""Suites: scores that are not of answers to the test rows, or that others gave, as neutral lines that the gates read.

In:  params ``suites``; the pinned files that they name; reports/parity.json, reports/evaluation.json and
     reports/references.json, which say by digest which models there are; data/splits/test.jsonl and data/predictions,
     which judges see; models/merged and models/base, which read the texts of kind ``loss``, rank the secrets of kind
     ``exposure``, and answer the questions of kind ``rows``, with params ``evaluate.batch_tokens`` and
     ``evaluate.precision``.
Out: data/suites/NAME.jsonl, a line for each model, metric and sample:
       {"sample": "q1", "sample_sha": "sha256:…", "model": "sha256:…", "metric": "accuracy", "value": 1.0,
        "group": "q1", "slice": "all", "source": "external", "source_digest": "sha256:…"}
     data/suites/NAME.answers.jsonl, where models answered, a line for each model and sample:
       {"sample": "q1", "model": "sha256:…", "messages": […], "reference": "Paris", "answer": "It is Paris."}
     data/judgements/NAME.jsonl, where a suite has a judge, a line for each answer that was judged,
     reports/suites.json (digests of these files, of what was asked and of which models),
     reports/measured/suites.json (how long each suite took).
Run: python -m stages.suites
"""

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from checks.config.params import Params
from checks.evaluation import answered
from checks.evaluation.answered import AnsweredRows, RatingSuite
from checks.evaluation.suite_lines import problem
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.suite_report import (
    Pinned,
    Role,
    SuiteLine,
    SuiteResult,
    SuitesMeasured,
    SuitesReport,
)
from checks.kinds.judge import JUDGES
from checks.kinds.retriever import RETRIEVERS, Pooling
from checks.kinds.scorer import SCORERS
from checks.kinds.suite import SUITES, Made, Material, SuiteKind
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from stages import earlier_records, entry
from stages.sources import copies, uris
from stages.suite_models import SuiteModels, SuiteQuestions

_ABOUT = "One file for each suite of params.yaml that has any. docs/how-to/suites.md says what is in it.\n"


def suites(params: Params, root: Path) -> str:
    """Make the lines of every suite, then write them all; a refusal writes nothing."""
    made = dict[str, Made]()
    took = dict[str, float]()
    if params.suites:
        models = SuiteModels.of(root)
        report = files.read_json(root / layout.EVALUATION, EvaluationReport)
        roles = [role for role in models.digests if role in report.models]
        test = answered.test_answers(root, report, roles)
        recorded, commit = _last(models)
        # Suites that are about the answers to another one come last.
        ordered = sorted(
            params.suites.items(), key=lambda named: answered.rated_suite(named[1]) is not None
        )
        for name, suite in ordered:
            rated = answered.rated_suite(suite)
            about = _about(params.suites, rated, made, models.digests) if rated else test
            started = time.perf_counter()
            asked = params.evaluate.model_copy(update={"json_schema": suite.answer_schema})
            questions = SuiteQuestions(models, asked, name)
            with _files(name, suite, root) as paths:
                material = Material(
                    name=name,
                    root=root,
                    files=paths,
                    models=models.digests,
                    rows=about.rows,
                    answers=about.answers,
                    nats=questions.nats,
                    ask=questions.ask,
                    weights=models.weights,
                    earlier=recorded,
                    earlier_commit=commit,
                    encode=partial(_encoded, name, paths),
                    relate=partial(_related, name, paths),
                    answer_nats=questions.answer_nats,
                )
                made[name] = _held(name, suite, suite.scored(material), models.digests)
            took[name] = round(time.perf_counter() - started + sum(questions.before), 3)
    with files.replacing_folder(root / layout.JUDGEMENTS) as folder:
        files.write_text(folder / "README.txt", _ABOUT)
        for name, outcome in made.items():
            if outcome.judgements:
                files.write_jsonl(folder / f"{name}.jsonl", outcome.judgements)
    with files.replacing_folder(root / layout.SUITES) as folder:
        files.write_text(folder / "README.txt", _ABOUT)
        results = dict[str, SuiteResult]()
        for name, outcome in made.items():
            results[name] = _written(folder, root, name, params.suites[name], outcome, results)
        results = {name: results[name] for name in params.suites}
    plugins = SUITES.plugins(suite.kind for suite in params.suites.values())
    plugins |= JUDGES.plugins(
        suite.judged_by for suite in params.suites.values() if suite.judged_by
    )
    plugins |= RETRIEVERS.plugins(
        suite.retrieved_by for suite in params.suites.values() if suite.retrieved_by
    )
    plugins |= SCORERS.plugins(kind for suite in params.suites.values() for kind in suite.scored_by)
    files.write_json(root / layout.SUITES_REPORT, SuitesReport(suites=results, plugins=plugins))
    if params.suites:
        files.write_json(
            root / layout.SUITES_MEASURED,
            SuitesMeasured(merged=models.digests["candidate"], seconds=took),
        )
    return (
        "; ".join(f"{name}: {_line(result)}" for name, result in results.items())
        or "none in params.yaml"
    )


def _about(
    suites: Mapping[str, SuiteKind],
    other: str,
    made: Mapping[str, Made],
    models: Mapping[Role, str],
) -> AnsweredRows:
    """Return what was answered to the suite ``other``."""
    return answered.suite_answers(
        suites[other],
        chain.from_iterable(made[other].given.values()),
        chain.from_iterable(made[other].scored.values()),
        models,
    )


def _last(models: SuiteModels) -> tuple[Mapping[str, SuiteResult], str | None]:
    """Return the suites of main's last record, as git has them, and its commit; none if they cannot be read."""
    if (main := models.earlier.found.get("main")) is not None:
        with suppress(ValidationError):
            return SuitesReport.model_validate_json(
                earlier_records.committed(models.root, main.commit, layout.SUITES_REPORT) or b""
            ).suites, main.commit
    return {}, None


def _encoded(
    suite: str,
    paths: Mapping[str, Path],
    source: str,
    texts: Sequence[str],
    pooling: Pooling,
    most: int | None,
) -> Any:
    """Return a vector of each text, by the encoder in ``source``."""
    from stages.inference import encoders

    return encoders.embed(
        paths[source], texts, pooling, most, f"{layout.PARAMS}: suites.{suite}.{source}"
    )


def _related(
    suite: str,
    paths: Mapping[str, Path],
    source: str,
    pairs: Sequence[tuple[str, str]],
    most: int | None,
) -> Any:
    """Return a score of each pair, by the cross-encoder in ``source``."""
    from stages.inference import encoders

    return encoders.relevance(
        paths[source], pairs, most, f"{layout.PARAMS}: suites.{suite}.{source}"
    )


@contextmanager
def _files(name: str, suite: SuiteKind, root: Path) -> Iterator[dict[str, Path]]:
    """Yield copies of the pinned files of a suite, verified."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = {}
        for number, (key, source) in enumerate(suite.sources.items()):
            paths[key] = copies.copy(
                source,
                f"suites.{name}.{key}",
                root,
                Path(scratch) / str(number),
                key in suite.folders,
            )
        yield paths


def _held(name: str, suite: SuiteKind, made: Made, models: Mapping[Role, str]) -> Made:
    """Return the scores, if they are about the models that they are called after, and can be compared."""

    def at(role: Role) -> str:
        return f"{layout.PARAMS}: suites.{name}{'.logs.' if f'logs.{role}' in suite.sources else ': '}{role}"

    for role, lines in made.scored.items():
        if role not in models:
            raise EvidenceRefused(
                f"{at(role)}: git names no {role} that a gate compares with", "remove it"
            )
        if other := next((line for line in lines if line.model != models[role]), None):
            raise EvidenceRefused(
                f"{at(role)}: is about model {other.model[:19]}…, the {role} is {models[role]}",
                f"run the suite on that model{' in models/merged' if role == 'candidate' else ''}, and pin that log",
            )
    if wrong := problem(made.scored, suite.scales, suite.declared_size, suite.partial):
        role, what = wrong
        raise EvidenceRefused(
            f"{at(role)}: {what}",
            "run the suite on the same samples for every model, and pin those logs",
        )
    return made


def _written(
    folder: Path,
    root: Path,
    name: str,
    suite: SuiteKind,
    made: Made,
    earlier: Mapping[str, SuiteResult],
) -> SuiteResult:
    """Write the lines of one suite. A model with two names, such as a candidate that is main, is written once.

    ``earlier``: what was written before, with the suite that this one is about, if there is one.
    """
    judged = (
        digest.of_file(root / layout.JUDGEMENTS / f"{name}.jsonl").sha256
        if made.judgements
        else None
    )
    pins = {
        key: Pinned(
            uri=uris.redact(source.uri), sha256=f"sha256:{source.sha256}", license=source.license
        )
        for key, source in suite.sources.items()
    }
    lines, seen = list[SuiteLine](), set[str]()
    for role, scored in made.scored.items():
        log = pins.get(f"logs.{role}")
        source_digest = judged or (
            log.sha256 if log else digest.of_json({key: pin.sha256 for key, pin in pins.items()})
        )
        if scored[0].model not in seen:
            seen.add(scored[0].model)
            lines += [
                SuiteLine(**line.model_dump(), source=suite.evidence, source_digest=source_digest)
                for line in scored
            ]
    path = folder / f"{name}.jsonl"
    files.write_jsonl(path, lines)
    given = {answer.model: answers for answers in made.given.values() for answer in answers[:1]}
    if given:
        files.write_jsonl(
            folder / layout.suite_answers(name).name,
            [answer for answers in given.values() for answer in answers],
        )
    return SuiteResult(
        kind=suite.kind,
        asked=digest.of_json(suite.model_dump(mode="json")),
        source=suite.evidence,
        lines=digest.of_file(path).sha256,
        samples=len({line.sample for line in made.scored["candidate"]}),
        models={role: scored[0].model for role, scored in made.scored.items()},
        means={
            role: {
                metric: round(fmean(line.value for line in scored if line.metric == metric), 6)
                for metric in suite.scales
            }
            for role, scored in made.scored.items()
        },
        files=pins,
        given=digest.of_file(folder / layout.suite_answers(name).name).sha256 if given else None,
        judgements=judged,
        judges=tuple(sorted({judgement.judge for judgement in made.judgements})),
        answers=_answers(root, suite, made.scored, earlier),
        answers_of=answered.rated_suite(suite),
        unparsed={role: count for role, count in made.unparsed.items() if count},
        chance=made.chance,
        compared=made.compared,
    )


def _answers(
    root: Path, suite: SuiteKind, roles: Iterable[Role], earlier: Mapping[str, SuiteResult]
) -> dict[Role, str]:
    """Return the digest of the file with each model's answers, for a suite that is about answers."""
    if not isinstance(suite, RatingSuite):
        return {}
    if suite.suite is not None:
        return dict.fromkeys(roles, earlier[suite.suite].given or "")
    return {
        role: digest.of_file(root / layout.PREDICTIONS / f"{role}.jsonl").sha256 for role in roles
    }


def _line(result: SuiteResult) -> str:
    ours = ", ".join(f"{metric} {mean:.3f}" for metric, mean in result.means["candidate"].items())
    return f"{ours} on {result.samples} samples, {result.source}"


if __name__ == "__main__":
    entry.run("suites", suites)
