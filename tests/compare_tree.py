"""Two records to compare, in a real git repository: what main has, and the work tree of a branch."""

import shutil
from pathlib import Path
from typing import Any

from checks.formats.data_reports import FetchReport
from checks.formats.evaluation_reports import EvaluationReport, Interval
from checks.formats.suite_report import SuiteLine, SuiteResult, SuitesReport
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from tests import report_tree
from tests.pipeline_repository import git, write_params

SUITE = {"kind": "external", "metrics": {"match": {"low": 1.0, "high": 5.0}}, "noise": 0.0}
_MADE = f"sha256:{'5' * 64}"
_METRICS = ("exact-match", "token-f1")


def rewrite(root: Path, answers: list[Prediction], **report: Any) -> None:
    """Replace the candidate's answers in the work tree's record, by all the metrics that they have; no gate is asked."""
    path = root / layout.PREDICTIONS / "candidate.jsonl"
    files.write_jsonl(path, answers)
    metrics = {}
    for name in answers[0].scores:
        mean = sum(each.scores[name] for each in answers) / len(answers)
        metrics[name] = Interval(value=mean, low=max(0.0, mean - 0.05), high=min(1.0, mean + 0.05), n=len(answers))
    found = files.read_json(root / layout.EVALUATION, EvaluationReport)
    candidate = found.models["candidate"].model_copy(
        update={"predictions": digest.of_file(path).sha256, "metrics": metrics}
    )
    update = {"models": {**found.models, "candidate": candidate}, "rows": len(answers), **report}
    files.write_json(root / layout.EVALUATION, found.model_copy(update=update))


def answers(root: Path) -> list[Prediction]:
    """The candidate's answers in the work tree."""
    return files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction)


def changed(each: Prediction, **update: Any) -> Prediction:
    """An answer with other fields; a score is also the score of each metric."""
    if "score" in update and "scores" not in update:
        update["scores"] = dict.fromkeys(each.scores, update["score"])
    return each.model_copy(update=update)


def keep(root: Path) -> None:
    """Leave the candidate's answers and scores beside those of the next one, as an evaluation leaves main's."""
    for path in (layout.PREDICTIONS / "candidate.jsonl", layout.SUITES / "general.jsonl"):
        if (root / path).exists():
            shutil.copy(root / path, root / path.with_stem("earlier"))


def suite(root: Path, values: dict[str, float], **result: Any) -> None:
    """Give the work tree's record the suite ``general`` with these values, in groups of two samples."""
    model = files.read_json(root / layout.EVALUATION, EvaluationReport).merged
    path = root / layout.SUITES / "general.jsonl"
    lines = [
        SuiteLine(
            sample=name, sample_sha=digest.of_bytes(name.encode()), model=model, metric="match", value=value,
            group=f"g{number // 2}", slice="all", source="external", source_digest=_MADE,
        )
        for number, (name, value) in enumerate(values.items())
    ]  # fmt: skip
    files.write_jsonl(path, lines)
    found = SuiteResult(
        kind="external", asked=_MADE, source="external", lines=digest.of_file(path).sha256, samples=len(lines),
        models={"candidate": model}, means={"candidate": {"match": sum(values.values()) / len(values)}}, files={},
    )  # fmt: skip
    files.write_json(root / layout.SUITES_REPORT, SuitesReport(suites={"general": found.model_copy(update=result)}))


def trained(root: Path, **change: Any) -> None:
    """Change the training's report or its measurements."""
    for path, model in ((layout.TRAIN_REPORT, TrainReport), (layout.TRAIN_MEASURED, TrainMeasured)):
        its = {name: value for name, value in change.items() if name in model.model_fields}
        files.write_json(root / path, files.read_json(root / path, model).model_copy(update=its))


def fetched(root: Path, **change: Any) -> None:
    """Change what the record says of the raw data."""
    found = files.read_json(root / layout.FETCH_REPORT, FetchReport)
    files.write_json(
        root / layout.FETCH_REPORT, found.model_copy(update={"data": found.data.model_copy(update=change)})
    )


def showy(root: Path) -> None:
    """Records that differ in everything a comparison shows, with texts as people and attackers write them."""
    report_tree.pull_request(root)
    write_params(root, report_tree.document() | {"suites": {"general": SUITE}})
    plain = answers(root)
    rewrite(root, [_worded(each, number, number % 5 != 0) for number, each in enumerate(plain)])
    suite(root, {f"sample {n}": 1.0 + n % 5 for n in range(40)})
    trained(root, tokens=1_203_551, seconds=228.3, device="cpu (2 threads)")
    report_tree.commit(root, "the earlier record")
    git(root, "tag", "before")
    keep(root)
    value = report_tree.document() | {"suites": {"general": SUITE}}
    value["train"]["learning_rate"] = 0.002
    value["train"]["lora"]["r"] = 16
    value["data"]["uri"] = (
        "https://data.example/a-rather-long-folder/with-rows/and-more-of-them/rows-of-the-second-quarter.jsonl"
    )
    write_params(root, value)
    new = [_worded(each, number, number % 11 != 0) for number, each in enumerate(plain)]
    rewrite(
        root,
        [*new[:190], *(changed(each, id=f"f{each.id[1:]}") for each in new[190:])],
        test=_MADE,
        merged=f"sha256:{'6' * 64}",
    )
    suite(root, {f"sample {n}": min(5.0, 2.0 + n % 5) for n in range(2, 42)})
    trained(root, tokens=1_504_439, seconds=301.7, device="cpu (2 threads)")
    fetched(root, uri=value["data"]["uri"], license="CC-BY-4.0", digest=_MADE)


_PROMPTS = (
    "List every container registry of the resource group “web”, with its login server",
    "<img src=x onerror=alert(1)> Show the disks that are attached to nothing",
    "Créer une file d'attente nommée « commandes » — et l'afficher 😀",
    "在资源组中列出所有虚拟机，并按名称排序，然后显示每台机器的电源状态和大小以及所在的区域",
    "Delete the \u202eold\u202c snapshot\x1b[31m of the boot disk\nand say which one it was",
)


def _worded(each: Prediction, number: int, right: bool) -> Prediction:
    reference = f'az {each.reference} list --resource-group web --query "[].name"'
    wrong = f"az {each.reference} show --name </td></table><script>alert({number})</script>" + " --verbose" * (
        number % 7
    )
    return each.model_copy(
        update={
            "prompt": f"{_PROMPTS[number % len(_PROMPTS)]} ({number})",
            "reference": reference,
            "prediction": reference if right else wrong,
            "score": float(right),
            "scores": dict(zip(_METRICS, (float(right), 1.0 if right else 0.4), strict=True)),
            "slice": ("acr", "vm", "storage queue", "a-slice-with-a-name-of-many-letters")[number % 4],
        }
    )
