"""A whole run's record, made of consistent small files: what the gate reads, without a model."""

import functools
import hashlib
from pathlib import Path
from typing import Any

from checks.code import lock, modules
from checks.code.modules import Code
from checks.config import params_file
from checks.config.params import Params, Source
from checks.decision import judging, policy
from checks.decision.judging import Sample, decision_params
from checks.evaluation import scoring
from checks.formats.data_reports import (
    DataReport,
    Expectation,
    FetchReport,
    PrepareReport,
    RuleCount,
    Seal,
    Split,
)
from checks.formats.evaluation_reports import (
    EARLIER,
    Earlier,
    EvaluateMeasured,
    EvaluationReport,
    Figures,
    Interval,
    ModelResult,
    NoiseReport,
    NoiseRun,
    Reference,
    ReferencesReport,
    ReferenceUse,
    Speed,
    ValidScores,
)
from checks.formats.evidence import Evidence, NoEvidence
from checks.formats.looks import LooksReport
from checks.formats.report import Fetched
from checks.formats.suite_report import SuitesReport
from checks.formats.training_reports import MergedFile, ParityReport, TrainMeasured, TrainReport
from checks.formats.verdict import Finding, Verdict
from checks.gating import chain
from checks.kinds.gate import Case, GateKind, failed
from checks.records.rows import Message, Prediction, Row
from checks.storage import digest, files, layout
from release.adapters import commits
from release.record import folder_lists, looks
from release.record.records import Records
from tests.conftest import REPOSITORY, as_params, read_yaml, scaled_down, written
from tests.pipeline_repository import git

_NO_EVIDENCE = {
    path.as_posix() for path in (layout.SUMMARY, layout.LOSS_CURVE, layout.CONFUSION, layout.PROBES, layout.SEAL)
}
LABELS = ("vm", "storage", "network", "acr")


def rows(split: str, count: int) -> list[Row]:
    """``count`` rows, each in a group of its own."""
    return [
        Row(
            id=f"{split}{i:013d}",
            messages=(Message(role="system", content="Route."), Message(role="user", content=f"{split} request {i} ü")),
            reference=LABELS[i % len(LABELS)],
            group=f"g-{split}-{i}",
            slice="list" if i % 2 else "create",
            source=f"file:{i}",
        )
        for i in range(count)
    ]


def predict(row: Row, right: bool) -> Prediction:
    """A prediction of ``row``, right or wrong, scored by exact match."""
    score = 1.0 if right else 0.0
    return Prediction(
        id=row.id, prompt=row.prompt, prediction=row.reference if right else "sql", reference=row.reference, score=score,
        scores={"exact-match": score}, group=row.group, slice=row.slice,
    )  # fmt: skip


def build(root: Path, params: Params, test_rows: int = 40, right: int = 36, **change: Any) -> None:
    """Write the record of a run whose candidate answers ``right`` of ``test_rows`` rows below ``root``.

    ``change`` overrides fields of the parity report.
    """
    counts = {"train": 60, "valid": 8, "test": test_rows}
    split_rows = {name: rows(name, count) for name, count in counts.items()}
    splits = {}
    for name, members in split_rows.items():
        path = root / layout.SPLITS / f"{name}.jsonl"
        files.write_jsonl(path, members)
        splits[name] = Split(rows=len(members), groups=len(members), sha256=digest.of_file(path).sha256)
    seals = {name: split.sha256 for name, split in splits.items()}
    trees = {}
    for folder in (layout.BASE, layout.RAW, layout.ADAPTER, layout.MERGED):
        (root / folder).mkdir(parents=True)
        (root / folder / "weights.bin").write_bytes(folder.as_posix().encode() * 10)
        trees[folder] = digest.of_tree(root / folder)

    def fetched(folder: Path, source: Source) -> Fetched:
        tree = trees[folder]
        return Fetched(
            uri="local", sha256="0" * 64, size=tree.size, files=len(tree.files), digest=tree.digest,
            license=source.license, declared=None,
        )  # fmt: skip

    files.write_json(
        root / layout.FETCH_REPORT,
        FetchReport(base=fetched(layout.BASE, params.base), data=fetched(layout.RAW, params.data)),
    )
    kept = sum(counts.values())
    files.write_json(
        root / layout.PREPARE_REPORT,
        PrepareReport(
            raw=trees[layout.RAW].digest,
            input_rows=kept + 2,
            kept_rows=kept,
            dropped_rows=2,
            rules=(RuleCount(rule="drop-duplicates", kind="drop", rows=2),),
            splits=splits,
        ),
    )
    unique = Expectation(
        name="ids are unique",
        expectation="expect_column_values_to_be_unique",
        success=True,
        observed="0",
        unexpected=0,
        rows=(),
    )
    files.write_json(
        root / layout.DATA_REPORT, DataReport(success=True, splits=seals, rows=counts, expectations=(unique,))
    )
    files.write_json(root / layout.SEAL, Seal(splits=seals))
    files.write_json(
        root / layout.TRAIN_REPORT,
        TrainReport(
            adapter=trees[layout.ADAPTER].digest, base=trees[layout.BASE].digest, splits=seals, rows=60, steps=4, epochs=1.0, trainable_parameters=1, total_parameters=2, final_loss=0.5,
            versions={},
        ),
    )  # fmt: skip
    took = TrainMeasured(
        adapter=trees[layout.ADAPTER].digest, git_commit=None, mlflow_run="r", seconds=1.0, device="cpu"
    )
    files.write_json(root / layout.TRAIN_MEASURED, took)
    parity = {
        "base": trees[layout.BASE].digest,
        "adapter": trees[layout.ADAPTER].digest,
        "merged": trees[layout.MERGED].digest,
        "files": {n: MergedFile(sha256=f.sha256, size=f.size) for n, f in trees[layout.MERGED].files.items()},
        "prompts": 4,
        "positions": 8,
        "max_logprob_diff": 0.01,
        "mean_logprob_diff": 0.001,
        "top1": 1.0,
    }
    files.write_json(root / layout.PARITY_REPORT, ParityReport(**(parity | change)))
    files.write_json(root / layout.SUITES_REPORT, SuitesReport(suites={}))
    if not commits.has_repository(root):  # a project lies in one that has others
        git(root, "init", "--quiet")  # where there is no commit yet, and so no earlier model
    named = {getattr(gate, "against", None) for gate in params.gates.values()}
    absent = {name: "nothing runs yet" for name in EARLIER if name == "main" or name in named}
    files.write_json(root / layout.REFERENCES, ReferencesReport(found={}, absent=absent))
    files.write_json(root / layout.LOOKS, LooksReport(models={}))
    test = split_rows["test"]
    evaluated(root, params, [predict(row, i < right) for i, row in enumerate(test)])
    if (root / layout.PARAMS).is_file():
        recorded(root)


def judged(root: Path, params: Params) -> Verdict:
    """Write which models the test split judged, the verdict that the gates give, and the lock of a run that gave it."""
    if (root / layout.PARAMS).is_file():
        looks.write(Records(root))
    verdict = judging.judge(params, chain.gather(root, scoring.digest_of(params.evaluate.scorers)))
    files.write_json(root / layout.VERDICT, verdict)
    if (root / layout.PARAMS).is_file():
        recorded(root)
    return verdict


def asked(name: str, gate: GateKind, evidence: Evidence, params: Params | None = None) -> Finding:
    """What a kind without a test finds; for kinds that read no parameter but their own, ``params`` may be any."""
    whole = params or as_params(scaled_down())
    try:
        found = gate.check(Case(name, decision_params(whole), evidence, Sample(evidence, whole.evaluate.scorers)))
    except NoEvidence as reason:
        return failed(name, gate, str(reason))
    assert isinstance(found, Finding)
    return found


@functools.cache
def _pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml."""
    stages: dict[str, Any] = read_yaml((REPOSITORY / layout.PIPELINE).read_text())["stages"]
    return stages


@functools.cache
def _code() -> Code:
    return lock.running()


@functools.lru_cache(maxsize=256)
def _digests(params: str, kinds: tuple[tuple[str, bytes], ...]) -> dict[str, str]:
    """Return the digests of the code of all stages with a params.yaml of this text: half a second's work."""
    return lock.of(params_file.parse(params), {**_code(), **dict(kinds)})


def recorded(root: Path) -> None:
    """Write dvc.yaml, and a dvc.lock that says that every stage ran with what params.yaml says and made what lies here.

    What a run leaves and no gate reads is written where it is not here, with a line.
    """
    (root / layout.PIPELINE).write_text(written({"stages": _pipeline()}))
    document = params_file.read(root / layout.PARAMS).value
    digests = _digests((root / layout.PARAMS).read_text(), tuple(modules.of_team(root).items()))
    defaults = policy.defaults(params_file.load(root / layout.PARAMS))
    made = lock.CodeLock(lockstep=lock.Installed(version="1", wheel=None), stages=digests, defaults=defaults)
    files.write_text(root / layout.CODE_LOCK, written(made.model_dump(mode="json")))
    stages = {}
    for name, stage in _pipeline().items():
        keys = [key for key in stage.get("params", ()) if isinstance(key, str)]
        values = {key: functools.reduce(lambda at, part: at[part], key.split("."), document) for key in keys}
        code = {layout.CODE_LOCK.as_posix(): {lock.key(name): digests[name]}} if name in digests else {}
        outs = [each for kind in ("outs", "metrics", "plots") for each in stage.get(kind, [])]
        stages[name] = {
            "cmd": stage["cmd"],
            "deps": [_entry(root, path) for path in sorted(stage.get("deps", ()))],
            "params": {layout.PARAMS.as_posix(): values} | code,
            "outs": [_entry(root, path) for path in sorted(next(iter(o)) if isinstance(o, dict) else o for o in outs)],
        }
    (root / layout.LOCK).write_text(written({"schema": "2.0", "stages": stages}))


def _entry(root: Path, path: str) -> dict[str, Any]:
    """A file or folder as the lock names it; the hash of a folder that is not here is of its name alone."""
    if not Path(path).suffix:
        folder = root / path
        md5 = folder_lists.made_again(folder) if folder.is_dir() else f"{folder_lists.md5_of(path.encode())}.dir"
        return {"path": path, "hash": "md5", "md5": md5}
    if not (root / path).exists() and path in _NO_EVIDENCE:
        files.write_text(root / path, "# from a run\n")
    data = (root / path).read_bytes() if (root / path).is_file() else b"gone"
    return {"path": path, "hash": "md5", "md5": hashlib.md5(data).hexdigest()}


def evaluated(root: Path, params: Params, predictions: list[Prediction], **others: list[Prediction]) -> None:
    """Write predictions, an evaluation report that is about them, and a noise report that is about that.

    The base answers one row in eight rightly, unless ``others`` gives its predictions; production or main in
    ``others`` is one that was found.
    """
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    base = [predict(row, i % 8 == 0) for i, row in enumerate(test)]
    models = {}
    for name, answers in {"candidate": predictions, "base": base, **others}.items():
        path = root / layout.PREDICTIONS / f"{name}.jsonl"
        files.write_jsonl(path, answers)
        models[name] = ModelResult(
            predictions=digest.of_file(path).sha256,
            metrics={"exact-match": _interval(answers)},
            slices={},
        )
    references = files.read_json(root / layout.REFERENCES, ReferencesReport)
    found = {
        name: reference.model_copy(update={"predictions": models[name].predictions} if name in models else {})
        for name, reference in references.found.items()
    }
    references = references.model_copy(update={"found": found})
    files.write_json(root / layout.REFERENCES, references)
    report = EvaluationReport(
        merged=digest.of_tree(root / layout.MERGED).digest,
        base=digest.of_tree(root / layout.BASE).digest,
        test=digest.of_file(root / layout.SPLITS / "test.jsonl").sha256,
        rows=len(predictions),
        scorers=scoring.digest_of(params.evaluate.scorers),
        prompt_format=digest.of_json({}),
        base_prompt=digest.of_json([]),
        confidence=0.95,
        references={
            **{n: ReferenceUse(how="stored", merged=r.merged, note="stored") for n, r in references.found.items()},
            **{n: ReferenceUse(how="absent", merged=None, note=why) for n, why in references.absent.items()},
        },
        models=models,
        summary=("A sentence.",),
    )
    files.write_json(root / layout.EVALUATION, report)
    speed = Speed(examples_per_second=1.0, p50_seconds=0.01, p95_seconds=0.01)
    files.write_json(
        root / layout.EVALUATE_MEASURED,
        EvaluateMeasured(merged=report.merged, models=dict.fromkeys(("candidate", "base"), speed)),
    )
    on_valid = Figures(**_interval(predictions).model_dump(exclude={"n"}))
    files.write_json(root / layout.METRICS, ValidScores(valid={"exact-match": on_valid}, rows=8))
    scored = dict.fromkeys((s.kind for s in params.evaluate.scorers), 0.5)
    first = NoiseRun(order="test order", batch_tokens=64, threads=1, metrics=scored, changed=0)
    other = NoiseRun(order="reversed", batch_tokens=64, threads=1, metrics=dict.fromkeys(scored, 0.502), changed=1)
    files.write_json(
        root / layout.NOISE,
        NoiseReport(
            merged=report.merged, base=report.base, test=report.test, scorers=report.scorers,
            prompt_format=report.prompt_format, device="cpu", rows=report.rows,
            runs=(first, other), floor=dict.fromkeys(scored, 0.002), max_logprob_diff=0.01,
        ),
    )  # fmt: skip


def earlier(root: Path, name: Earlier, model: str = "7") -> None:
    """Say that git names an earlier model ``name`` and no other; its predictions come through ``evaluated``."""
    report = files.read_json(root / layout.EVALUATION, EvaluationReport)
    found = Reference(
        commit="1" * 40, merged=f"sha256:{model * 64}", test=report.test, scorers=report.scorers,
        prompt_format=report.prompt_format, predictions=f"sha256:{'8' * 64}",
    )  # fmt: skip
    absent = {} if name == "main" else {"main": "nothing is recorded yet"}
    files.write_json(root / layout.REFERENCES, ReferencesReport(found={name: found}, absent=absent))


def _interval(answers: list[Prediction]) -> Interval:
    value = sum(p.score for p in answers) / max(1, len(answers))
    return Interval(value=value, low=value, high=value, n=len(answers))
