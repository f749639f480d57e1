"""A draft model beside the weights: it ships in their directory, pinned, and is held to the model's tokens."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.training_reports import ParityReport
from checks.process.errors import MergeRefused, ParamsRefused, Refusal, SourceRefused
from checks.storage import digest, files, layout
from stages.merge import merge
from stages.weights import base_model
from tests.conftest import as_params, scaled_down
from tests.stages.test_merge import adapter, base, root, weights_in  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow


def drafting(folder: Path, sha256: str | None = None) -> dict[str, Any]:
    document = scaled_down()
    sha256 = sha256 or digest.of_tree(folder).digest.removeprefix("sha256:")
    document["merge"]["draft"] = {"uri": folder.name, "sha256": sha256, "license": "Apache-2.0"}
    document["serve"] |= {"runtime": "vllm", "speculation": {"kind": "draft", "tokens": 3}}
    return document


@pytest.fixture
def small(root: Path, tiny_base: Path) -> Path:  # noqa: F811 - the fixture
    return Path(shutil.copytree(tiny_base, root / "small"))


def test_the_draft_is_a_part_of_what_ships_and_changes_nothing_else(root: Path, small: Path) -> None:  # noqa: F811
    merge(as_params(scaled_down()), root)
    plain, alone = files.read_json(root / layout.PARITY_REPORT, ParityReport), weights_in(root / layout.MERGED)
    line = merge(as_params(drafting(small)), root)
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    ships = root / layout.MERGED
    assert report.draft is not None
    assert report.draft.digest == digest.of_tree(ships / "draft").digest
    assert f"with the draft model {report.draft.digest[:19]}" in line
    assert report.merged == digest.of_tree(ships).digest != plain.merged
    assert report.files.items() >= plain.files.items()
    assert {name for name in report.files if name not in plain.files} == {
        f"draft/{path.name}" for path in (ships / "draft").iterdir()
    }
    assert all(tensor.equal(alone[name]) for name, tensor in weights_in(ships).items())
    assert weights_in(ships / "draft").keys() == weights_in(small).keys()


def _other_tokens(small: Path) -> None:
    path = small / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(document))


def _more_tokens(small: Path) -> None:
    path = small / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 9}))


def _no_weights(small: Path) -> None:
    for path in small.glob("*.safetensors*"):
        path.unlink()


REFUSED: dict[str, tuple[Callable[[Path], object], str | None, type[Refusal], str]] = {
    # what is wrong with the folder, its pin (None: as it is), and the refusal
    "other bytes": (lambda _: None, "0" * 64, SourceRefused, r"merge\.draft"),
    "two tokens with each other's number": (_other_tokens, None, MergeRefused, r"merge\.draft: its tokenizer has 2 other tokens than the model's; use a smaller"),
    "another size of vocabulary": (_more_tokens, None, MergeRefused, r"merge\.draft: has a vocab_size of 9, the model of \d+"),
    "no weights": (_no_weights, None, SourceRefused, r"merge\.draft\.uri: small: holds neither model\.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "sha256", "refusal", "word"), REFUSED.values(), ids=REFUSED)
def test_a_draft_that_cannot_guess_for_the_model_is_refused(
    spoil: Callable[[Path], object], sha256: str | None, refusal: type[Refusal], word: str, small: Path, base: Path  # noqa: F811
) -> None:  # fmt: skip
    spoil(small)
    source = as_params(drafting(small, sha256)).merge.draft
    assert source is not None
    ships = small.parent / "ships"
    shutil.copytree(base, ships)
    with pytest.raises(refusal, match=word) as found:
        base_model.place_draft(source, small.parent, ships)
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("drop", "word"),
    [
        ("draft", r"serve\.speculation\.kind: draft needs a second model; write its uri"),
        ("speculation", r"merge\.draft: nothing uses it; remove it, or set serve\.speculation\.kind to draft"),
    ],
)
def test_a_draft_and_its_use_go_together(drop: str, word: str, small: Path) -> None:
    document = drafting(small)
    for section in ("merge", "serve"):
        document[section].pop(drop, None)
    with pytest.raises(ParamsRefused, match=word):
        as_params(document)
