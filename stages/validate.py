"""validate: checks the splits against a suite of expectations. Nothing is trained on data that fails.

In:  data/splits, reports/prepare.json, models/base (its tokenizer and chat template), ``data``, ``validate``,
 ``prepare`` and ``train.method`` of params.yaml.
Out: reports/data.json (``checks.formats.data_reports.DataReport``), Data Docs as HTML in data/data_docs, and, only if
every expectation held, data/validated.json (``checks.formats.data_reports.Seal``). With
``validate.semantic_duplicates``, whose pinned encoder is fetched, also data/data_docs/semantic_duplicates.jsonl
(``stages.quality.semantic.Twin``). With ``validate.languages`` also data/data_docs/other_languages.jsonl
(``checks.formats.data_statistics.OtherLanguage``).
Run: python -m stages.validate
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from checks.config import data_sources
from checks.config.data_sources import Part
from checks.config.params import Params
from checks.config.pipeline_params import Prepare
from checks.formats.data_reports import DataReport, Expectation, PrepareReport, Seal
from checks.kinds.loader import LOADERS
from checks.kinds.method import METHODS
from checks.kinds.rule import RULES, Rule, all_rules
from checks.process.errors import DataRefused, EvidenceRefused
from checks.process.text import escape
from checks.storage import digest, files, layout
from checks.training import steps
from checks.training.preferences import learned
from stages import entry
from stages.quality import (
    chat_tokens,
    documents,
    expectations,
    label_noise,
    labels,
    languages,
    preferences,
    rows_frames,
    semantic,
    statistics,
)
from stages.quality.expectations import ALL, DOCUMENTS, LABELS, Columns, Frame
from stages.quality.rows_frames import RowChecks

Defects = Mapping[str, Rule]
# Always defects, so that a missing rule is noticed. A loader adds the defects of its own data.
_ALWAYS = ("strip-control-characters", "trim-ends")
_PRIVATE = "drop-personal-data"  # always, once prepare.personal_data is written


def validate(params: Params, root: Path) -> str:
    """Write report, Data Docs and seal. Raises DataRefused, without a seal, if an expectation fails.

    Raises EvidenceRefused if the splits are not the bytes that prepare wrote.
    """
    # What an earlier run found is about other splits.
    for path in (layout.SEAL, layout.DATA_REPORT):
        (root / path).unlink(missing_ok=True)
    shutil.rmtree(root / layout.DATA_DOCS, ignore_errors=True)
    report = files.read_json(root / layout.PREPARE_REPORT, PrepareReport)
    digests = _as_prepared(root, report)
    parts = data_sources.parts(params.data, params.prepare.loader)
    some = steps.in_some_rows(params.training)
    detector = languages.load(params.validate_.languages)
    checks = _row_checks(params, root)
    count, defects, wanted, needed, *_ = checks
    read = {name: rows_frames.read(root, name, checks) for name in layout.SPLIT_NAMES}
    judged = learned(needed)
    texts = documents.read(root, parts, report, defects, wanted)
    counts = {name: len(of_split.references) for name, of_split in read.items()}
    counts |= {DOCUMENTS: len(texts.texts)} if texts.texts else {}
    frames: dict[str, Frame | Columns] = {name: of_split.columns for name, of_split in read.items()}
    frames[ALL] = rows_frames.together(read, params.prepare.near_duplicates)
    only_train = {part.origin for part in parts if part.split == "train"}
    of_labels = labels.frame(labels.compared(read, parts))
    frames[LABELS] = of_labels
    frames["conservation"] = rows_frames.conservation(read, report, len(texts.texts))
    frames |= documents.frames(texts, read, params.prepare.near_duplicates)
    frames |= preferences.frames(
        {name: of_split.rows for name, of_split in read.items()}, judged, count, some
    )
    spoken = languages.judge(params.validate_.languages, detector, read, texts)
    frames |= spoken.frames if spoken else {}
    noise = None
    if any(counts.values()):
        noise = statistics.of(
            read,
            label_noise.of(read, only_train) if params.validate_.labels is not None else None,
            documents.described(texts),
            spoken.statistics if spoken else None,
        )
    meaning = params.validate_.semantic_duplicates
    twins = semantic.twins(meaning, read, root)
    frames |= semantic.frames(meaning, read, twins)
    del read
    suites = expectations.suites(
        params.validate_, params.prepare, report, list(defects), needed, some, texts.written
    )
    suites |= documents.suites(texts, params.prepare, list(defects))
    suites |= preferences.suites(
        judged, params.validate_.preferences, params.validate_.max_reference_tokens
    )
    suites |= languages.suites(params.validate_.languages, spoken)
    suites |= semantic.suites(meaning)
    outcomes = expectations.run(suites, frames, root / layout.DATA_DOCS)
    languages.write(spoken, root)
    semantic.write(meaning, twins, root)
    failed = [outcome for outcome in outcomes if not outcome.success]
    files.write_json(
        root / layout.DATA_REPORT,
        DataReport(
            success=not failed,
            splits=digests,
            rows=counts,
            expectations=tuple(outcomes),
            statistics=noise,
            plugins=LOADERS.plugins([part.loader.kind for part in parts])
            | RULES.plugins(defects)
            | METHODS.plugins(steps.names(params.training)),
        ),
    )
    if failed:
        raise _refused(failed, len(outcomes), suites, of_labels)
    files.write_json(root / layout.SEAL, Seal(splits=digests))
    return f"{len(outcomes)} expectations hold on {sum(counts.values()):,} rows"


def _refused(
    failed: Sequence[Expectation],
    of: int,
    suites: Mapping[str, expectations.Suite],
    of_labels: Frame,
) -> DataRefused:
    todos = {
        f"{frame}: {words}": expectation.todo
        for frame, suite in suites.items()
        for words, expectation in suite.items()
    }
    (first, todo), *others = [
        (escape(_line(outcome, of_labels)), todos[outcome.name]) for outcome in failed
    ]
    return DataRefused(
        f"{len(failed)} of {of} expectations failed: {first}",
        f"{todo}; see {layout.DATA_REPORT} and {layout.DATA_DOCS}/index.html",
        tuple(f"{line}; {remedy}" for line, remedy in others),
    )


def _row_checks(params: Params, root: Path) -> RowChecks:
    parts = data_sources.parts(params.data, params.prepare.loader)
    wanted = _wanted(params.prepare, parts)
    needed = steps.columns(params.training)
    return RowChecks(
        lengths=chat_tokens.counter(root / layout.BASE),
        defects=_defects(params.prepare, parts, wanted),
        wanted=wanted,
        needed=needed,
        whole=bool(learned(needed)),
        planted={part.origin for part in parts if part.loader.planted},
        control=chat_tokens.control(root / layout.BASE, needed),
    )


def _as_prepared(root: Path, report: PrepareReport) -> dict[str, str]:
    """The digest of each split; EvidenceRefused names every split that differs from what prepare wrote."""
    paths = {name: root / layout.SPLITS / f"{name}.jsonl" for name in layout.SPLIT_NAMES}
    digests = {name: digest.of_file(path).sha256 for name, path in paths.items()}
    wrong = [
        f"{layout.SPLITS}/{name}.jsonl: is {digests.get(name, 'unknown')}, but prepare wrote "
        f"{report.splits[name].sha256 if name in report.splits else 'no such split'}"
        for name in sorted({*digests, *report.splits})
        if name not in report.splits or digests.get(name) != report.splits[name].sha256
    ]
    names = {f"{name}.jsonl" for name in layout.SPLIT_NAMES}
    wrong += [
        f"{layout.SPLITS}/{path.name}: is not of prepare"
        for path in sorted((root / layout.SPLITS).iterdir())
        if path.name not in names
    ]
    EvidenceRefused.raise_for(
        wrong,
        "change the raw data or prepare.rules, not the splits, and run `./lockstep run prepare`",
    )
    return digests


def _wanted(config: Prepare, parts: Sequence[Part]) -> dict[str, frozenset[str]]:
    """By source: the rules that apply to its rows, of prepare.rules, of its loader, and those that always apply."""
    # No source may skip these.
    always = frozenset((*_ALWAYS, _PRIVATE) if config.personal_data else _ALWAYS)
    return {
        part.origin: always.union(
            name for name in (*config.rules, *part.loader.defects) if not part.skips(name)
        )
        for part in parts
    }


def _defects(
    config: Prepare, parts: Sequence[Part], wanted: Mapping[str, frozenset[str]]
) -> Defects:
    """Those rules of any source whose defect a finished row would show."""
    known = all_rules(config)
    of_loaders = (name for part in parts for name in part.loader.defects)
    names = dict.fromkeys((*config.rules, *_ALWAYS, *of_loaders, _PRIVATE))
    some = frozenset().union(*wanted.values())
    return {
        name: known[name]
        for name in names
        if name in some and known[name].in_rows and known[name].among is None
    }


def _line(outcome: Expectation, of_labels: Frame) -> str:
    """A failed expectation on one line: its name, the observed value, and the rows or labels."""
    if outcome.name.startswith(f"{LABELS}: "):
        described = labels.describe(outcome, of_labels)
        return f"{outcome.name}: {outcome.observed}{': ' if described else ''}{described}"
    shown = []
    for row in outcome.rows:
        values = ", ".join(
            f"{key} {value!r}"[:120] for key, value in row.items() if key not in ("where", "id")
        )
        shown.append(f"{row['where']} (id {row['id']}{': ' if values else ''}{values})")
    return f"{outcome.name}: {outcome.observed}{': ' if shown else ''}{', '.join(shown)}"


if __name__ == "__main__":
    # jsonschema would compile a grammar of addresses, which nothing is compared with.
    entry.run("validate", validate, unneeded=("rfc3987_syntax",))
