"""lm-eval: tasks of EleutherAI's lm-evaluation-harness, run on each model, offline, in an environment of its own.

``tasks`` is a pinned folder with the tasks' YAML and their data, named relative to it. The harness runs in a copy of
the folder with ``--log_samples``, once for each model, and each sample's metrics are kept. ``python -m
stages.tools.lm_eval VERSION`` makes the environment, ``.lockstep/lm-eval``; LOCKSTEP_LM_EVAL names another's Python.

Its caches of requests and answers are never used: they know neither the model nor the data by digest, and would give
one model the answers of another (issues 2715 and 4123 of the harness). A metric is called after the harness's, with the
filter in front where there is one: ``acc``, ``strict-match/exact_match``. Each task must give the same metrics.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError

from checks.formats.suite_report import Scored, SourceClass
from checks.kinds.suite import AskedSuite, Made, Material, ScaledSuite, SizedSuite
from checks.process.errors import EvaluationRefused, EvidenceRefused, MachineRefused
from checks.process.text import redact
from checks.records.sections import Log, Strings
from checks.storage import digest, files, layout

PYTHON = "LOCKSTEP_LM_EVAL"
VERSION = r"^[0-9][0-9a-z.]*$"
ENVIRONMENT = layout.STATE / "lm-eval"
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# Digests of the document, of the prompt as the model got it, and of the target.
_ASKED = ("doc", "prompt", "target")
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class LmEval(ScaledSuite, AskedSuite, SizedSuite):
    """Tasks of lm-evaluation-harness. ``id``, ``group`` and ``slice`` are keys of a task's documents."""

    evidence: ClassVar[SourceClass] = "external"
    folders: ClassVar[frozenset[str]] = frozenset({"tasks"})

    kind: Literal["lm-eval"]
    tasks: Annotated[Log, Field(description="folder with the tasks' YAML and data")]
    names: Annotated[Strings, Field(min_length=1, description="tasks to run; no groups of tasks")]
    version: Annotated[str, Field(pattern=VERSION, description="version of the package lm-eval")]
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"], Field(description="number format of the models")
    ]
    chat: Annotated[bool, Field(description="whether prompts go through the chat template")]
    id: Annotated[str | None, Field(description="null: a document's position")] = None
    group: Annotated[str | None, Field(description="null: each sample is its own group")] = None
    slice: Annotated[str | None, Field(description="null: the task's name")] = None

    def scored(self, material: Material) -> Made:
        """Run the harness on each model, a model with two names once."""
        python = _python(self, material)
        known = dict[str, list[Scored]]()
        for role in (role for role in self.models if role in material.models):
            model = material.models[role]
            if model not in known:
                with material.weights(role) as folder, tempfile.TemporaryDirectory() as out:
                    _run(self, material, python, folder.resolve(), Path(out))
                    known[model] = [
                        line
                        for name in self.names
                        for line in self._of_task(material, name, out, model)
                    ]
        return Made(
            {role: known[material.models[role]] for role in self.models if role in material.models}
        )

    def _of_task(self, material: Material, name: str, out: str, model: str) -> Iterator[Scored]:
        key = f"{layout.PARAMS}: suites.{material.name}.names: {name}"
        logs = sorted(Path(out).rglob(f"samples_{name}_*.jsonl"))
        if len(logs) != 1:
            raise EvidenceRefused(
                f"{key}: lm-eval logged no samples of it", "name tasks, and no groups of tasks"
            )
        try:
            yield from self.convert(logs[0], name, model)
        except (ValueError, KeyError, TypeError) as error:
            what = (
                files.first(error)
                if isinstance(error, ValidationError)
                else f"{type(error).__name__}: {error}"
            )
            raise EvidenceRefused(
                f"{key}: {redact(what)}", "see docs/how-to/suites.md, lm-eval"
            ) from error

    def convert(self, log: Path, task: str, model: str) -> Iterator[Scored]:
        """Yield the scores in a log of samples. Raises ValueError, KeyError or TypeError where it is no such log."""
        for line in log.read_text().splitlines():
            sample = json.loads(line)
            doc = sample["doc"]
            name = f"{task}/{sample['doc_id'] if self.id is None else doc[self.id]}"
            for metric in sample["metrics"]:
                called = metric if sample["filter"] == "none" else f"{sample['filter']}/{metric}"
                if called not in self.metrics:
                    continue
                value = sample[metric]
                if not isinstance(value, bool | int | float):
                    raise ValueError(f"sample {name}: {called} is {value!r}, which is no number")
                sha = digest.of_json([sample[f"{part}_hash"] for part in _ASKED])
                yield Scored(
                    sample=name, sample_sha=sha, model=model, metric=called, value=float(value),
                    group=name[:200] if self.group is None else str(doc[self.group]),
                    slice=task if self.slice is None else str(doc[self.slice]),
                )  # fmt: skip


def _python(suite: LmEval, material: Material) -> str:
    """The Python of the harness's environment. Raises MachineRefused unless it has the version of params.yaml."""
    python = os.environ.get(PYTHON) or str(material.root.resolve() / ENVIRONMENT / "bin" / "python")
    script = "import importlib.metadata as m; print(m.version('lm_eval'))"
    todo = f"run `python -m stages.tools.lm_eval {suite.version}`, or set {PYTHON} to a Python that has it"
    try:
        done = subprocess.run(
            [python, "-c", script], capture_output=True, text=True, env=_environment(), check=False
        )
    except OSError as error:
        raise MachineRefused(
            f"{python}: {error.strerror}: suites.{material.name} needs lm-eval", todo
        ) from error
    if (version := done.stdout.strip()) != suite.version:
        has = f"lm-eval {version}" if done.returncode == 0 else "no lm-eval"
        raise MachineRefused(
            f"{python}: has {has}, and suites.{material.name}.version is {suite.version}", todo
        )
    return python


def _run(suite: LmEval, material: Material, python: str, model: Path, out: Path) -> None:
    adapter = model / layout.SHIPPED_ADAPTER  # Without it the harness would ask the base.
    peft = f",peft={adapter}" if adapter.exists() else ""
    command = [
        python, "-m", "lm_eval", "run", "--model", "hf",
        "--model_args", f"pretrained={model},dtype={_DTYPES[suite.precision]}{peft}",
        "--include_path", ".", "--tasks", ",".join(suite.names), "--batch_size", "1", "--seed", "0",
        "--output_path", str(out), "--log_samples", *(["--apply_chat_template"] if suite.chat else []),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            command,
            cwd=material.files["tasks"],
            env=_environment() | _OFFLINE | {"HF_HOME": home},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        last = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing"
        )
        raise EvaluationRefused(
            f"{layout.PARAMS}: suites.{material.name}: lm-eval ended with {done.returncode}: {redact(last)}",
            f"run `{python} -m lm_eval run --include_path . --tasks {','.join(suite.names)}` in the folder of tasks",
        )


def _environment() -> dict[str, str]:
    """This process's, without what would let the harness import modules of the pipeline or use another cache."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "HF_", "LM_HARNESS"))
    }
