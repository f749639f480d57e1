"""Training from the adapter of an earlier record: real git, real DVC with a folder for a remote, a tiny model."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.data_reports import FetchReport
from checks.formats.report import Fetched
from checks.formats.training_reports import TrainReport
from checks.process.errors import EvidenceRefused, ParamsRefused, TrainingRefused
from checks.storage import digest, files, layout
from stages.merge import merge
from stages.train import train
from stages.training import checkpoints
from tests import pipeline_repository as repository
from tests import training_tree
from tests.conftest import as_params, scaled_down

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forking", "tracked")]

DVC_YAML = "stages:\n  made:\n    cmd: 'true'\n    outs: [models/adapter, data/splits, data/learned.jsonl]\n"
NO_STEP = 1e-30  # a learning rate that moves no float32
TRAIN, VALID = (layout.SPLITS / f"{name}.jsonl" for name in ("train", "valid"))


def _document(**section: Any) -> dict:
    document = scaled_down()
    document["train"] |= {"learning_rate": 0.02, "max_steps": 8} | section
    return document


def _commit(root: Path) -> str:
    """Commit the record in ``root`` to DVC, its remote and git; return the commit."""
    for command in (("commit", "--force", "--quiet"), ("push", "--quiet")):
        done = repository.dvc(root, *command)
        assert done.returncode == 0, done.stderr
    repository.commit(root, "the record")
    return repository.git(root, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, store: str) -> tuple[Path, str, float]:
    """A repository with the record of a training, its commit, and the loss on valid at the end."""
    root = training_tree.make(tmp_path_factory.mktemp("released") / "root", tiny_base)
    source = Fetched(
        uri="x", sha256="0" * 64, size=1, files=1, digest=f"sha256:{'0' * 64}", license="MIT", declared=None
    )
    files.write_json(root / layout.FETCH_REPORT, FetchReport(base=source, data=source))
    (root / ".gitignore").write_text("/models/\n/data/\n/.lockstep/\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.setenv(checkpoints.MINUTES, "0")
        params = as_params(_document())
        match = re.search(r"on valid ([0-9.]+)", train(params, root))
        assert match
        merge(params, root)
    shutil.rmtree(root / layout.MERGED)
    repository.git(root, "init", "--quiet", "--initial-branch=main")
    for command in (("init", "--quiet"), ("config", "core.analytics", "false")):
        assert repository.dvc(root, *command).returncode == 0
    assert repository.dvc(root, "remote", "add", "--default", "folder", "../remote").returncode == 0
    return root, _commit(root), float(match[1])


@pytest.fixture
def root(released: tuple[Path, str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that repository; what DVC has of the record lies on its remote alone, and the train rows are others."""
    monkeypatch.setenv(checkpoints.MINUTES, "0")
    shutil.copytree(released[0].parent, tmp_path / "copy")
    root = tmp_path / "copy" / "root"
    shutil.rmtree(root / layout.ADAPTER)
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.copyfile(root / VALID, root / TRAIN)
    training_tree.seal(root)
    return root


def _report(root: Path) -> TrainReport:
    return files.read_json(root / layout.TRAIN_REPORT, TrainReport)


def _losses(root: Path) -> list[float]:
    with (root / layout.LOSS_CURVE).open() as stream:
        return [float(line["loss"]) for line in csv.DictReader(stream)]


def test_it_begins_with_the_loss_at_which_the_other_training_ended_and_without_a_step_ends_in_its_adapter(
    root: Path, released: tuple[Path, str, float]
) -> None:
    _, commit, loss = released
    earlier = files.read_json(released[0] / layout.TRAIN_REPORT, TrainReport)
    parity = repository.git(root, "show", f"{commit}:{layout.PARITY_REPORT}")
    train(as_params(_document(start=commit, learning_rate=NO_STEP, max_steps=2, batch_size=6)), root)
    report = _report(root)
    assert report.adapter == earlier.adapter == digest.of_tree(root / layout.ADAPTER).digest
    assert _losses(root)[0] == pytest.approx(loss, abs=1e-3)
    assert report.start is not None
    assert (report.start.commit, report.start.adapter) == (commit, earlier.adapter)
    assert f'"merged": "{report.start.model}"' in parity
    assert report.start.licenses == {f"data main of {commit[:12]}": "MIT"}
    assert report.start.learned == digest.of_file(root / layout.LEARNED_BEFORE).sha256 == earlier.splits["train"]
    # The base itself is elsewhere.
    train(as_params(_document(learning_rate=NO_STEP, max_steps=2, batch_size=6)), root)
    assert abs(_losses(root)[0] - loss) > 0.1
    assert _report(root).start is None
    assert (root / layout.LEARNED_BEFORE).read_bytes() == b""


def test_what_it_learns_from_there_has_the_same_bytes_twice_and_a_third_training_knows_the_rows_of_both(
    root: Path, released: tuple[Path, str, float]
) -> None:
    params = as_params(_document(start=released[1], lora=scaled_down()["train"]["lora"] | {"dropout": 0.1}))
    adapters = []
    for _ in range(2):
        train(params, root)
        adapters.append(_report(root).adapter)
    assert adapters[0] == adapters[1] != files.read_json(released[0] / layout.TRAIN_REPORT, TrainReport).adapter
    merge(params, root)
    rows = [(place / TRAIN).read_bytes().splitlines() for place in (root, released[0])]
    second = _commit(root)
    train(as_params(_document(start=second)), root)
    start = _report(root).start
    assert start is not None
    assert set(start.licenses) == {f"data main of {commit[:12]}" for commit in (second, released[1])}
    assert (root / layout.LEARNED_BEFORE).read_bytes().splitlines() == [*rows[0], *rows[1]]


def test_the_first_of_several_steps_starts_from_it(root: Path, released: tuple[Path, str, float]) -> None:
    section = {"method": ["sft", "sft"], "start": released[1], "max_steps": None, "learning_rate": NO_STEP}
    document = _document(**section)
    document["train"]["steps"] = [{"method": "sft", "max_steps": 1}, {"method": "sft", "max_steps": 2}]
    train(as_params(document), root)
    report = _report(root)
    assert report.start is not None
    assert [step.started_from for step in report.chain] == [report.start.adapter, report.chain[0].adapter]
    assert report.adapter == report.start.adapter


# --- refusals ---


def _lora(**keys: Any) -> Callable[[dict, Path], None]:
    return lambda document, _root: document["train"]["lora"].update(keys)


def _other_base(document: dict, root: Path) -> None:
    template = next((root / layout.BASE).glob("tokenizer_config.json"))
    template.write_text(template.read_text().replace("{", "{ ", 1))


def _unknown(document: dict, _root: Path) -> None:
    document["train"]["start"] = "0" * 40


def _no_remote(_document: dict, root: Path) -> None:
    shutil.rmtree(root.parent / "remote")


def _four_bits(document: dict, _root: Path) -> None:
    document["train"]["quantization"] = {"kind": "nf4", "double": True}


def _spoiled_rows(_document: dict, root: Path) -> None:
    report = _report(root)
    other = report.model_copy(update={"splits": report.splits | {"train": f"sha256:{'1' * 64}"}})
    files.write_json(root / layout.TRAIN_REPORT, other)
    _document["train"]["start"] = _commit_again(root)


def _spoiled_adapter(document: dict, root: Path) -> None:
    files.write_json(root / layout.TRAIN_REPORT, _report(root).model_copy(update={"adapter": f"sha256:{'1' * 64}"}))
    text = (root / layout.PARITY_REPORT).read_text()
    (root / layout.PARITY_REPORT).write_text(re.sub(r'"adapter": "[^"]+"', f'"adapter": "sha256:{"1" * 64}"', text))
    document["train"]["start"] = _commit_again(root)


def _two_adapters(document: dict, root: Path) -> None:
    files.write_json(root / layout.TRAIN_REPORT, _report(root).model_copy(update={"adapter": f"sha256:{'1' * 64}"}))
    document["train"]["start"] = _commit_again(root)


def _full(document: dict, root: Path) -> None:
    files.write_json(root / layout.TRAIN_REPORT, _report(root).model_copy(update={"full": True}))
    document["train"]["start"] = _commit_again(root)


def _no_report(document: dict, root: Path) -> None:
    (root / layout.PARITY_REPORT).unlink()
    document["train"]["start"] = _commit_again(root)


def _other_version(document: dict, root: Path) -> None:
    (root / layout.TRAIN_REPORT).write_text('{"schema_version": 2}')
    document["train"]["start"] = _commit_again(root)


def _commit_again(root: Path) -> str:
    repository.commit(root, "another record")
    return repository.git(root, "rev-parse", "HEAD").strip()


NO_RECORD = r"train.start: reports/{}.json of commit \w{{12}} is not in this clone"
OTHER = r"train.start: {} of commit \w{{12}} is sha256:\w+…, and its record says sha256:1+…"


@pytest.mark.parametrize(
    ("spoil", "refused", "says"),
    [
        (_lora(r=8), TrainingRefused, r"train.lora.r: gives 8, and the adapter that training starts from has 4"),
        (_lora(layers=1), TrainingRefused, r"train.lora.layers: gives layers 1 to 1, and the adapter .* has all layers"),
        (_lora(targets=["q_proj"]), TrainingRefused, r"train.lora.targets: gives q_proj, and the adapter"),
        (_lora(variant="rslora"), TrainingRefused, r"train.lora.variant: gives rslora, and the adapter .* has lora"),
        (_other_base, TrainingRefused, r"was trained on the base sha256:\w+…, and models/base is sha256:"),
        (_four_bits, TrainingRefused, r"was trained on a base in its own precision, and train.quantization says 4 bits"),
        (_full, TrainingRefused, r"has no adapter: the base's own weights learned"),
        (_unknown, EvidenceRefused, NO_RECORD.format("train")),
        (_no_report, EvidenceRefused, NO_RECORD.format("parity")),
        (_other_version, EvidenceRefused, r"has the format 2, which a newer Lockstep reads"),
        (_no_remote, EvidenceRefused, r"DVC has no models/adapter of that commit, here or on a remote"),
        (_spoiled_adapter, EvidenceRefused, OTHER.format("models/adapter")),
        (_spoiled_rows, EvidenceRefused, OTHER.format("data/splits/train.jsonl")),
        (_two_adapters, EvidenceRefused, OTHER.format("reports/parity.json")),
    ],
    ids=lambda value: value.__name__ if callable(value) and not isinstance(value, type) else None,
)  # fmt: skip
def test_what_does_not_fit_is_refused_on_one_line_and_leaves_nothing(
    root: Path, released: tuple[Path, str, float], spoil: Callable[[dict, Path], None], refused: type[Exception], says: str
) -> None:  # fmt: skip
    document = _document(start=released[1])
    spoil(document, root)
    with pytest.raises(refused, match=says):
        train(as_params(document), root)
    for path in (layout.ADAPTER, layout.TRAIN_REPORT, layout.LEARNED_BEFORE):
        assert not (root / path).exists()


HASH = "3" * 40


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"start": "main"}, r"'main' is not the full hash of a commit, and another name may mean another model tomorrow; run `lockstep start main`"),
        ({"start": "3f2a"}, r"'3f2a' is not the full hash"),
        ({"start": f"sha256:{'3' * 64}"}, r"is not the full hash"),
        ({"start": 7}, r"7 is not the full hash"),
        ({"start": [HASH]}, r"is not the full hash"),
        ({"start": HASH, "lora": None, "full": {"layers": None}}, r"train: start: is not offered with full; write start: null"),
        ({"start": HASH, "devices": 2, "shard": "fsdp2"}, r"train: start: is not offered with shard; write start: null"),
        (
            {"start": HASH, "lora": scaled_down()["train"]["lora"] | {"modules_to_save": ["lm_head"]}},
            r"train: start: is not offered with lora.modules_to_save; write start: null",
        ),
        (
            {"method": ["sft", "sft"], "steps": [{"method": "sft", "start": HASH}, {"method": "sft"}]},
            r"train.steps.*only the first step starts from it; move it beside train.steps",
        ),
    ],
)  # fmt: skip
def test_what_can_never_be_is_refused_as_params_yaml_is_read(section: dict, says: str) -> None:
    with pytest.raises(ParamsRefused, match=says):
        as_params(_document(**section))
