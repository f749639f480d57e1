"""A whole run's record, made of consistent small files: what the gate reads, without a model."""

from pathlib import Path
from typing import Any

from checks import digest, files, layout, scoring
from checks.evidence import (
    DataReport,
    EvaluationReport,
    Expectation,
    Fetched,
    FetchReport,
    Interval,
    MergedFile,
    ModelResult,
    ParityReport,
    PrepareReport,
    RuleCount,
    Seal,
    Split,
    TrainReport,
)
from checks.params import Params
from checks.rows import Message, Prediction, Row

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
        scores={"exact-match": score}, group=row.group, slice=row.slice, latency=0.01,
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

    def fetched(folder: Path) -> Fetched:
        tree = trees[folder]
        return Fetched(uri="local", sha256="0" * 64, size=tree.size, files=len(tree.files), digest=tree.digest)

    files.write_json(root / layout.FETCH_REPORT, FetchReport(base=fetched(layout.BASE), data=fetched(layout.RAW)))
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
            adapter=trees[layout.ADAPTER].digest, base=trees[layout.BASE].digest, splits=seals, git_commit=None,
            mlflow_run="r", rows=60, steps=4, epochs=1.0, trainable_parameters=1, total_parameters=2, final_loss=0.5,
            seconds=1.0, device="cpu", versions={},
        ),
    )  # fmt: skip
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
    predictions = [predict(row, i < right) for i, row in enumerate(split_rows["test"])]
    evaluated(root, params, predictions)


def evaluated(root: Path, params: Params, predictions: list[Prediction]) -> None:
    """Write predictions and an evaluation report that is about them."""
    path = root / layout.PREDICTIONS / "candidate.jsonl"
    files.write_jsonl(path, predictions)
    value = sum(p.score for p in predictions) / max(1, len(predictions))
    result = ModelResult(
        predictions=digest.of_file(path).sha256,
        metrics={"exact-match": Interval(value=value, low=value, high=value, n=len(predictions))},
        slices={},
        examples_per_second=1.0,
    )
    files.write_json(
        root / layout.EVALUATION,
        EvaluationReport(
            merged=digest.of_tree(root / layout.MERGED).digest,
            base=digest.of_tree(root / layout.BASE).digest,
            test=digest.of_file(root / layout.SPLITS / "test.jsonl").sha256,
            rows=len(predictions),
            scorers=scoring.digest_of(params.evaluate.scorers),
            prompt_format=digest.of_json({}),
            confidence=0.95,
            models={"candidate": result},
            summary=("A sentence.",),
        ),
    )
    files.write_json(root / layout.METRICS, {"candidate": {"exact-match": {"value": value}}})
