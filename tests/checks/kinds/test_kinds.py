"""One kind, one file: a source, a loader, a rule and a training method that are added, and nothing else is edited.

Source and loader are files in the folder ``kinds`` of a team's repository, rule and method are a package that is installed.
tests/repository/test_own_kinds.py has gates, scorers, suites and judges. The method is written anew over TRL's DPOTrainer
and not taken from Lockstep's own, so that the seam is one that a method with other columns and another trainer fits.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.code import modules
from checks.config import params_file
from checks.data import drafts
from checks.formats.data_reports import DataReport, PrepareReport
from checks.formats.training_reports import TrainReport
from checks.kinds.rule import RULES, apply_rule
from checks.process.errors import DataRefused, ParamsRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages.prepare import prepare
from tests import pipeline_repository as repository
from tests import plugin_package
from tests.conftest import REPOSITORY, as_params, written
from tests.repository.test_layers import HEAVY

SOURCE = '''
"""``copy://path``: a file that is copied from elsewhere in the repository."""
import shutil
from dataclasses import dataclass
from pathlib import Path
from stages.sources.location import Location, refused

@dataclass(frozen=True)
class Copied(Location):
    kind = "copy"
    path: Path

    @classmethod
    def parse(cls, uri, rest, field, root):
        if rest.startswith("/"):
            raise refused(uri, field, "leaves the repository", "write copy://path")
        return cls(root / rest)

    @property
    def name(self):
        return self.path.name

    def download(self, work, field):
        return Path(shutil.copy(self.path, work / self.name)), False
'''
LOADER = '''
"""Lines of request, better answer and worse answer, parted by tabs."""
from typing import Literal
from checks.data.drafts import Draft
from checks.kinds.loader import Loader
from checks.records.rows import Message

class Pairs(Loader):
    kind: Literal["pairs"]
    instruction: str

    def load(self, folder):
        drafts = []
        for path in sorted(folder.glob("*.tsv")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                prompt, better, worse = line.split("\\t")
                before = (Message(role="system", content=self.instruction),)
                source = f"{path.name}:{number}"
                drafts.append(Draft(before, prompt, better, better, "all", source, extra={"rejected": worse}))
        return drafts
'''
RULE = '''
"""Drops pairs whose two answers are the same."""
from checks.kinds.rule import Rule

class DropSameAnswers(Rule):
    name = "drop-same-answers"
    does = "both answers are the same"

    def drop(self, draft):
        return draft.extra.get("rejected") == draft.reference
'''
METHOD = '''
"""Direct preference optimisation (Rafailov et al., 2023), by TRL."""
from typing import Annotated, Literal
from pydantic import Field
from checks.kinds.method import Train

class Liking(Train):
    columns = ("prompt", "reference", "rejected")
    reported = ("rewards/margins",)
    method: Literal["liking"]
    beta: Annotated[float, Field(gt=0)] = 0.1

    def trainer(self, job):
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
        from stages.training.trainer import Steady

        class Trainer(Steady, DPOTrainer):
            pass

        def rows(split):
            return Dataset.from_list([
                {
                    "prompt": [message.model_dump() for message in row.messages],
                    "chosen": [{"role": "assistant", "content": row.reference}],
                    "rejected": [{"role": "assistant", "content": row.extra["rejected"]}],
                }
                for row in split
            ])

        settings = {**job.settings, "train_sampling_strategy": "random"}
        return Trainer(
            model=job.model, args=DPOConfig(**settings, beta=self.beta, max_length=self.max_length),
            train_dataset=rows(job.rows), eval_dataset=rows(job.valid) if job.valid else None,
            processing_class=job.tokenizer, peft_config=job.adapter, callbacks=list(job.callbacks),
        )
'''
PLACES = {"kinds/sources/copy.py": SOURCE, "kinds/loaders/pairs.py": LOADER}
ENTRY_POINTS = {
    "lockstep.rules": {"drop-same-answers": "acme_kinds.same"},
    "lockstep.methods": {"liking": "acme_kinds.liking:Liking"},
}
PACKAGE = {"acme_kinds/__init__.py": "", "acme_kinds/same.py": RULE, "acme_kinds/liking.py": METHOD}


def _make(root: Path, base: Path, document: dict[str, Any]) -> None:
    """A repository at ``root`` whose params.yaml names all four kinds."""
    rows = repository.table()
    repository.make(root, base, document, rows)
    services = sorted({row["reference"] for row in rows})
    lines = []
    for number, row in enumerate(rows):
        other = services[(services.index(row["reference"]) + 1) % len(services)]
        lines.append("\t".join((row["prompt"], row["reference"], row["reference"] if number < 2 else other)))
    data = root / "sources" / "pairs.tsv"
    data.write_text("\n".join(lines) + "\n")
    sha256 = digest.of_file(data).sha256.removeprefix("sha256:")
    document["data"] |= {"uri": "copy://sources/pairs.tsv", "sha256": sha256}
    document["prepare"] |= {
        "loader": {"kind": "pairs", "instruction": "Name the service."},
        "rules": ["drop-same-answers", "drop-duplicates"],
    }
    document["train"] |= {"method": "liking", "beta": 0.3, "max_steps": 3, "epochs": None, "precision": "fp32"}
    document["validate"]["preferences"] = {"max_length_bias": 0.5, "max_auc": 0.75}
    repository.write_params(root, document)


def _run(root: Path, stage: str, site: Path) -> "subprocess.CompletedProcess[str]":
    """Run a stage in the copy at ``root``, with the packages in ``site``."""
    path = os.pathsep.join(map(str, (root, site)))
    environment = repository.environment(PYTHONPATH=path, MLFLOW_TRACKING_URI=f"sqlite:///{root}/mlflow.db")
    return subprocess.run(
        [repository.interpreter(), "-m", f"stages.{stage}"],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_one_file_for_each_kind_is_all_that_it_takes_and_reports_name_the_code_of_a_package(
    tmp_path: Path, tiny_base: Path, document: dict[str, Any]
) -> None:
    root, site = tmp_path / "copy", tmp_path / "site"
    _make(root, tiny_base, document)
    repository.commit(root, "parameters")
    plugin_package.by_hand(site, "acme-kinds", ENTRY_POINTS, PACKAGE)
    unknown = "prepare.loader.kind: unknown loader 'pairs'; one of: canaries, documents, table, azure-cli"
    assert unknown in _run(root, "prepare", site).stderr
    for path, text in PLACES.items():
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(text)
    for stage in ("fetch", "prepare", "validate", "train"):
        done = _run(root, stage, site)
        assert done.returncode == 0, done.stderr
    prepared = files.read_json(root / layout.PREPARE_REPORT, PrepareReport)
    assert [(rule.rule, rule.rows) for rule in prepared.rules] == [("drop-same-answers", 2), ("drop-duplicates", 0)]
    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    assert all(row.extra["rejected"] != row.reference for row in rows)
    data = files.read_json(root / layout.DATA_REPORT, DataReport)
    names = {expectation.name for expectation in data.expectations}
    assert {f"{split}: every row has rejected" for split in layout.SPLIT_NAMES} <= names
    assert "pairs: the two answers differ" in names
    trained = files.read_json(root / layout.TRAIN_REPORT, TrainReport)
    assert (trained.steps, trained.adapter) == (3, digest.of_tree(root / layout.ADAPTER).digest)
    assert list(trained.figures) == ["rewards/margins"]

    method = {"lockstep.methods:liking"}
    assert "plugins" not in (root / layout.FETCH_REPORT).read_text()
    assert set(prepared.plugins) == set(data.plugins) == {"lockstep.rules:drop-same-answers", *method}
    assert set(trained.plugins) == method
    plugins = [*prepared.plugins.values(), *data.plugins.values(), *trained.plugins.values()]
    assert {(plugin.distribution, plugin.version) for plugin in plugins} == {("acme-kinds", "1.0")}
    assert len({plugin.sha256 for plugin in plugins}) == 1

    document["train"]["bta"] = 1  # parameters of such a kind are as strict as any
    repository.write_params(root, document)
    assert "train.bta: unknown key; did you mean beta?" in _run(root, "train", site).stderr


BROKEN = {
    "lockstep.chat_templates": ("from checks.kinds.chat_template import ChatTemplate\nclass T(ChatTemplate):\n    name = 'extra'\n", "does not set tokens, text"),
    "lockstep.rules": ("from checks.kinds.rule import Rule\nclass R(Rule):\n    name = 'extra'\n    does = 'nothing'\n", "does not define exactly one of fix, drop and among"),
    "lockstep.loaders": ("from checks.kinds.loader import Loader\nclass L(Loader):\n    kind: str\n", "does not define load"),
    "lockstep.methods": ("from typing import Literal\nfrom checks.kinds.method import Train\nclass M(Train):\n    columns = ('group',)\n    method: Literal['extra']\n    def trainer(self, job): ...\n", "needs a column 'group', which is a field of every row"),
}  # fmt: skip


NAMED: dict[str, Callable[[dict[str, Any]], object]] = {
    "lockstep.chat_templates": lambda plain: plain["base"].update(chat_template="extra"),
    "lockstep.rules": lambda plain: plain["prepare"]["rules"].append("extra"),
    "lockstep.loaders": lambda plain: plain["prepare"].update(loader={"kind": "extra"}),
    "lockstep.methods": lambda plain: plain["train"].update(method="extra"),
}


READ = """
import sys
from pathlib import Path
from checks.config import params_file
from checks.process.errors import MachineRefused
params_file.load(Path(sys.argv[1]))
for path in sys.argv[2:]:
    try:
        params_file.load(Path(path))
    except MachineRefused as refusal:
        print(refusal, *refusal.others, sep="\\n")
"""


@pytest.mark.slow
def test_a_package_whose_kind_does_not_fit_is_refused_by_whoever_reads_params_yaml_that_names_it(
    tmp_path: Path, document: dict
) -> None:
    expected, paths = [], [REPOSITORY / "params.yaml"]
    for group, (code, why) in BROKEN.items():
        name = group.rpartition(".")[2]
        value = f"{name}_extra:L" if name == "loaders" else f"{name}_extra"
        plugin_package.by_hand(tmp_path, name, {group: {"extra": value}}, {f"{name}_extra.py": code})
        expected.append(f"package {name} 1.0 adds 'extra' to {group}, which {why}; repair {name}, or uninstall it")
        named = copy.deepcopy(document)
        NAMED[group](named)
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(written(named))
    done = plugin_package.python(tmp_path, READ, *map(str, paths))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected


@pytest.mark.slow
def test_params_yaml_is_read_without_any_library_of_the_pipeline() -> None:
    absent = sorted(HEAVY | {"pyarrow", "pandas", "fsspec", "huggingface_hub", "mlflow", "dvc", "great_expectations"})
    script = f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\nfrom checks.config import params_file\nparams_file.load()\n"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=environment, check=True)


@pytest.mark.slow
def test_only_the_kinds_that_params_yaml_names_are_imported() -> None:
    script = (
        "import json, sys\nfrom checks.config import params_file\nparams = params_file.load().resolved()\n"
        "print(json.dumps([params, [name.rpartition('.') for name in sys.modules]]))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    output = subprocess.check_output([sys.executable, "-c", script], cwd=REPOSITORY, env=environment)
    params, imported = json.loads(output)
    folders = {folder.replace("/", ".") for folder in modules.KINDS.values()}
    kinds = {name for package, _, name in imported if package in folders and not name.startswith("_")}
    named = {name.replace("-", "_") for name in modules.names_in(params)}
    assert {"sft", "table", "non_inferior", "exact_match", "drop_duplicates"} <= kinds
    assert kinds - named == set()


def test_the_method_is_sft_unless_params_yaml_names_another(document: dict) -> None:
    document["train"].pop("method", None)
    assert as_params(document).train.method == "sft"
    schema = params_file.schema()["properties"]["train"]["oneOf"][0]
    assert list(schema["discriminator"]["mapping"]) == ["cpt", "dpo", "grpo", "kto", "sft"]
    document["train"]["method"] = "dpi"
    with pytest.raises(
        ParamsRefused, match=r"train\.method: unknown training method 'dpi'; one of: cpt, dpo, grpo, kto, sft"
    ):
        as_params(document)


def test_a_table_gives_the_columns_that_a_method_needs(tmp_path: Path, document: dict) -> None:
    raw = tmp_path / layout.RAW
    raw.mkdir(parents=True)
    rows = [{"q": f"show disk {n}", "a": "disk", "bad": {"n": n}} for n in range(20)]
    (raw / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "q", "reference": "a", "extra": {"rejected": "bad"}}
    document["prepare"] |= {"loader": {"kind": "table", "files": "*.jsonl", "columns": columns}, "rules": []}
    prepare(as_params(document), tmp_path)
    found = [
        row for name in layout.SPLIT_NAMES for row in files.read_jsonl(tmp_path / layout.SPLITS / f"{name}.jsonl", Row)
    ]
    assert all(row.extra == {"rejected": {"n": int(row.prompt.split()[-1])}} for row in found)
    assert len(found) == 20
    columns["extra"] = {"rejected": "worse"}
    with pytest.raises(DataRefused, match=r"has no column 'worse'"):
        prepare(as_params(document), tmp_path)


def test_a_column_that_the_method_needs_and_nobody_gives_is_refused(
    tmp_path: Path, document: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / layout.RAW
    raw.mkdir(parents=True)
    (raw / "rows.csv").write_text("prompt,reference\n" + "".join(f"show disk {n},disk\n" for n in range(20)))
    loader = {"kind": "table", "files": "*.csv", "columns": {"prompt": "prompt", "reference": "reference"}}
    document["prepare"] |= {"loader": loader, "rules": []}
    params = as_params(document)
    monkeypatch.setattr(type(params.train), "columns", ("prompt", "reference", "rejected"))
    with pytest.raises(DataRefused, match=r"gives no column 'rejected', which train\.method 'sft' needs; name it in"):
        prepare(params, tmp_path)


def test_pairs_that_differ_in_a_further_column_alone_are_no_duplicates(document: dict) -> None:
    made = [drafts.Draft((), "Show it.", "vm", "vm", "all", f"f:{n}", extra={"rejected": n % 2}) for n in range(4)]
    rule = RULES.kinds["drop-duplicates"]
    numbers = as_params(document).prepare
    kept, gone = apply_rule(rule(numbers), made)
    assert ({draft.extra["rejected"] for draft in kept}, len(gone)) == ({0, 1}, 2)
    assert len({draft.content for draft in made}) == 2
