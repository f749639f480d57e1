"""Semantic near-duplicates: a real small encoder, and held-out rows that are compared with every train row."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from checks.config.params import Params
from checks.formats.data_reports import DataReport
from checks.process.errors import DataRefused, ParamsRefused, Refusal, SourceRefused
from checks.storage import digest, files, layout
from release.cards import data_page
from release.cards.data_page import gather as data
from release.cli import main
from stages.inference.encoders import embed
from stages.quality import semantic
from stages.quality.rows_frames import Read
from stages.quality.semantic import FILE, Twin
from stages.still_pinned import still_pinned
from stages.validate import validate
from tests.conftest import REPOSITORY
from tests.stages.test_validate import SIZES, _good, _params, _write

pytestmark = pytest.mark.slow

LONG = "key " * 60  # more tokens than the encoder holds
NO_FOLDER = b"no folder"
PIN = digest.of_bytes(NO_FOLDER).removeprefix("sha256:")
FOUND = 7  # held-out rows, where a test asks for some
OFF = """
import sys
import stages.quality.semantic, stages.validate
assert "torch" not in sys.modules, "an option that is off costs seconds"
"""


@pytest.fixture
def root(tmp_path: Path, encoder: Path) -> Path:
    shutil.copytree(encoder, tmp_path / "encoder")
    return tmp_path


@pytest.fixture
def prepared(root: Path, tiny_base: Path) -> Path:
    shutil.copytree(tiny_base, root / layout.BASE)
    _write(root, _good())
    return root


def _meaning(root: Path, **change: Any) -> dict[str, Any]:
    folder = root / "encoder"
    pin = digest.of_tree(folder).digest.removeprefix("sha256:") if folder.is_dir() else None
    model = {"uri": "encoder", "sha256": pin, "license": "MIT"}
    return {"model": model, "pooling": "mean", "max_tokens": 30, "similarity": 0.9, "max_share": 1.0} | change


def _with(root: Path, **change: Any) -> Params:
    return _params(semantic_duplicates=_meaning(root, **change))


def _split(name: str, requests: list[str], *earlier: tuple[str, ...]) -> Read:
    columns = {key: [f"{name}:{place}" for place, _ in enumerate(requests)] for key in ("where", "id")}
    return Read(columns, requests, requests, list(earlier) or [()] * len(requests), {}, [], [])


def _expected(root: Path) -> tuple[list[tuple[str, str, float]], float, float]:
    """FOUND held-out rows with the closest train row and the cosine; a threshold that they reach, and their share."""
    texts = {name: [row.messages[-1].content for row in rows] for name, rows in _good().items()}
    train = embed(root / "encoder", texts["train"], "mean", 30, "x").astype(float)
    pairs = []
    for name in ("valid", "test"):
        cosines = np.round(embed(root / "encoder", texts[name], "mean", 30, "x").astype(float) @ train.T, 6)
        for line, row in enumerate(cosines, 1):
            best = int(np.argmax(row))
            pairs.append((f"{layout.SPLITS}/{name}.jsonl:{line}", f"{layout.SPLITS}/train.jsonl:{best + 1}", row[best]))
    pairs.sort(key=lambda pair: -pair[2])
    found = pairs[:FOUND]
    share = max(sum(f"/{name}.jsonl" in where for where, *_ in found) / SIZES[name] for name in ("valid", "test"))
    return found, (pairs[FOUND - 1][2] + pairs[FOUND][2]) / 2, share


def test_rows_that_mean_the_same_as_a_train_row_are_counted_and_listed_apart(prepared: Path) -> None:
    expected, similarity, share = _expected(prepared)
    assert (
        validate(_with(prepared, similarity=similarity, max_share=share), prepared) == "40 expectations hold on 68 rows"
    )
    found = files.read_jsonl(prepared / FILE, Twin)
    assert [(twin.where, twin.train) for twin in found] == [(where, train) for where, train, _ in expected]
    assert [twin.similarity for twin in found] == pytest.approx([cosine for *_, cosine in expected])
    report = files.read_json(prepared / layout.DATA_REPORT, DataReport)
    pin = _meaning(prepared)["model"]["sha256"]
    for name in ("valid", "test"):
        count = sum(f"/{name}.jsonl" in where for where, *_ in expected)
        (outcome,) = [each for each in report.expectations if each.name.startswith(f"{name} by meaning: ")]
        assert outcome.name.endswith(f"by the encoder sha256:{pin}")
        assert (outcome.unexpected, outcome.observed) == (count, f"{count} of {SIZES[name]} rows")
        closest = [twin for twin in found if f"/{name}.jsonl" in twin.where][: len(outcome.rows)]
        assert [row["where"] for row in outcome.rows] == [twin.where for twin in closest]
        for row, twin in zip(outcome.rows, closest, strict=True):
            assert twin.train in row["semantic_duplicate_of"]
            assert repr(twin.request) in row["semantic_duplicate_of"]
    page = data_page.render(data(prepared))
    assert found[0].train in page
    said = CliRunner().invoke(main, ["-C", str(prepared), "data"]).output
    assert f"test by meaning: at most {share:.1%} of the rows" in " ".join(said.split())


def test_more_of_them_than_the_bound_are_refused_before_training(prepared: Path) -> None:
    _, similarity, share = _expected(prepared)
    with pytest.raises(
        DataRefused, match=r" by meaning: at most .*: \d+ of \d+ rows: data/splits/\w+\.jsonl:\d+ "
    ) as caught:
        validate(_with(prepared, similarity=similarity, max_share=share - 0.01), prepared)
    assert f"look at {FILE}; drop such rows in the data source" in str(caught.value)
    assert not (prepared / layout.SEAL).exists()
    assert len(files.read_jsonl(prepared / FILE, Twin)) == FOUND


def test_what_a_chat_of_train_answers_earlier_counts_too(root: Path) -> None:
    read = {
        "train": _split("train", ["vault key", "queue"], (), ("list the disks",)),
        "valid": _split("valid", ["list the disks"]),
        "test": _split("test", []),
    }
    config = _with(root, similarity=0.999).validate_.semantic_duplicates
    (twin,) = semantic.twins(config, read, root)
    assert (twin.where, twin.train, twin.train_request) == ("valid:0", "train:1", "list the disks")


def test_an_option_that_is_off_loads_no_encoder() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _broken(root: Path) -> None:
    """Weights that are no numbers."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(root / "encoder/model.safetensors")
    weights["embeddings.LayerNorm.weight"][:] = np.nan
    save_file(weights, root / "encoder/model.safetensors", {"format": "pt"})


def _file(root: Path) -> None:
    shutil.rmtree(root / "encoder")
    (root / "encoder").write_bytes(NO_FOLDER)


REFUSED: dict[str, tuple[Callable[[Path], object], dict[str, Any], type[Refusal], str]] = {
    "vectors that are no numbers": (_broken, {}, DataRefused, r"model: gives a vector that is no number; pin another encoder"),
    "pickled weights": (
        lambda root: (root / "encoder/model.safetensors").rename(root / "encoder/pytorch_model.bin"), {}, DataRefused,
        r"model: does not load: .*; pin an encoder's folder, in safetensors",
    ),
    "a request that is too long": (
        Path.exists, {"max_tokens": None}, DataRefused, r"model: 'key .*'… has \d+ tokens, and the model holds 40; .*max_tokens",
    ),
    "a file": (_file, {"model": {"uri": "encoder", "sha256": PIN, "license": None}}, SourceRefused, r"model\.uri: encoder is no folder"),
    "no pin": (
        Path.exists, {"model": {"uri": "encoder", "sha256": None, "license": None}}, SourceRefused,
        r"model\.sha256: encoder is not pinned; pin it: sha256: \w{64}$",
    ),
    "other bytes": (
        Path.exists, {"model": {"uri": "encoder", "sha256": "1" * 64, "license": None}}, SourceRefused,
        r"model\.sha256: 1+ is pinned, but encoder is \w+",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_encoder_that_cannot_be_used_is_refused_in_one_line(case: str, root: Path) -> None:
    spoil, change, kind, said = REFUSED[case]
    spoil(root)
    read = {name: _split(name, [f"{name} key", LONG]) for name in layout.SPLIT_NAMES}
    config = _with(root, **change).validate_.semantic_duplicates
    with pytest.raises(kind, match=r"^params\.yaml: validate\.semantic_duplicates\." + said) as refused:
        semantic.twins(config, read, root)
    assert "\n" not in str(refused.value)


def test_an_encoder_without_a_licence_key_is_refused(root: Path) -> None:
    meaning = _meaning(root)
    del meaning["model"]["license"]
    with pytest.raises(ParamsRefused, match=r"validate\.semantic_duplicates\.model\.license: missing; add it"):
        _params(semantic_duplicates=meaning)


def test_a_local_encoder_that_changes_is_noticed_before_the_run(root: Path) -> None:
    params = _with(root)
    assert "validate.semantic_duplicates.model as pinned" in still_pinned(params, root)
    (root / "encoder/config.json").write_text(json.dumps({}))
    with pytest.raises(
        SourceRefused, match=r"validate\.semantic_duplicates\.model\.sha256: \w+ is pinned, but encoder is"
    ):
        still_pinned(params, root)
