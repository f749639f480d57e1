"""validate: faults of preferences are caught by name, and so is what would be learned instead of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.process.errors import DataRefused
from checks.records.rows import Row
from checks.storage import layout
from stages.quality.preferences import told_by_words
from stages.validate import validate
from tests import training_tree
from tests.conftest import as_params
from tests.stages.test_validate import Splits, _failed, _good, _params, _where, _write
from tests.stages.test_validate import root as root  # a fixture

pytestmark = pytest.mark.slow

BOUNDS = {"max_length_bias": 0.15, "max_auc": 0.75}
# Words of the tiny tokenizer, of one length: neither the words nor the length tell a better answer from a worse one.
ANSWERS = ("disk list", "list disk", "name list", "list name")


def _taught(method: str, **bounds: float) -> Params:
    document = json.loads(_params().model_dump_json(by_alias=True))
    del document["train"]["loss_turns"], document["train"]["thoughts"]  # of sft alone
    document["train"] |= training_tree.METHODS[method]
    document["validate"] |= {"preferences": BOUNDS | bounds, "labels": None, "max_reference_tokens": 20}
    document["train"]["max_length"], document["evaluate"]["max_new_tokens"] = 128, 20
    return as_params(document)


def _preferences() -> Splits:
    """Good splits whose rows have the columns of every method."""
    found: Splits = {}
    for name, rows in _good().items():
        found[name] = []
        for row in rows:
            number = int(row.id, 16)
            better, worse, label = ANSWERS[number % 4], ANSWERS[(number + 1) % 4], number // 4 % 2 == 0
            more = {"rejected": worse, "completion": better if label else worse, "label": label}
            found[name].append(row.model_copy(update={"reference": better, "extra": more}))
    return found


def _more(splits: Splits, name: str, line: int, **extra: Any) -> None:
    row = splits[name][line - 1]
    splits[name][line - 1] = row.model_copy(update={"extra": row.extra | extra})


@pytest.mark.parametrize(("method", "more"), [("dpo", 9), ("kto", 13), ("grpo", 0)])
def test_good_preferences_are_sealed(root: Path, method: str, more: int) -> None:
    _write(root, _preferences())
    assert validate(_taught(method), root) == f"{35 + more} expectations hold on 68 rows"


def _planted_pairs(splits: Splits) -> None:
    _more(splits, "train", 2, rejected=f" {splits['train'][1].reference.upper()}.")
    _more(splits, "train", 3, rejected={"text": "disk"})
    _more(splits, "test", 4, rejected="disk " * 30)
    one = splits["train"][0]
    turned = {"messages": one.messages, "reference": one.extra["rejected"], "extra": {"rejected": one.reference}}
    splits["valid"][4] = splits["valid"][4].model_copy(update=turned)


def _planted_answers(splits: Splits) -> None:
    wrong = next(place for place, row in enumerate(splits["test"], 1) if not row.extra["label"])
    _more(splits, "test", wrong, completion=f"{splits['test'][wrong - 1].reference}!")
    _more(splits, "train", 3, completion=None)
    _more(splits, "train", 5, label="maybe")
    _more(splits, "valid", 2, label=1)


PLANTED = {
    "dpo": (_planted_pairs, {
        "pairs: the two answers differ": ["train:2"],
        "pairs: rejected is text": ["train:3"],
        "pairs: rejected has at most 20 tokens": ["test:4"],
        "pairs: no pair is there in both orders": ["valid:5"],
        "splits: no prompt is in two splits": ["valid:5"],
        "splits: no near-duplicate is in two splits": ["valid:5"],
    }),
    "kto": (_planted_answers, {
        "judged answers: no answer that people disliked is the reference": ["test:5"],
        "judged answers: completion is text": ["train:3"],
        "judged answers: label is true or false": ["train:5", "valid:2"],
        "train: every row has completion": ["train:3"],
    }),
}  # fmt: skip


@pytest.mark.parametrize("method", PLANTED)
def test_a_planted_fault_of_preferences_is_caught_by_name_and_row(root: Path, method: str) -> None:
    plant, faults = PLANTED[method]
    splits = _preferences()
    plant(splits)
    _write(root, splits)
    with pytest.raises(DataRefused):
        validate(_taught(method), root)
    assert {failed.name: _where(failed) for failed in _failed(root)} == faults
    assert not (root / layout.SEAL).exists()


def _long(row: Row) -> dict[str, Any]:
    return {"reference": f"{row.reference} {row.reference}"}


def _one_word(row: Row) -> dict[str, Any]:
    return {"extra": row.extra | {"rejected": f"bad {str(row.extra['rejected'])[:5]}"}}


def _all_liked(row: Row) -> dict[str, Any]:
    return {"extra": row.extra | {"label": True}}


def _telling(row: Row) -> dict[str, Any]:
    label = bool(row.extra["label"])
    return {"extra": row.extra | {"completion": f"{'good' if label else 'poor'} {row.extra['completion']}"}}


@pytest.mark.parametrize(
    ("method", "change", "name", "says"),
    [
        ("dpo", _long, "the better answer is the longer one in 0.35 to 0.65 of the pairs", "longer 1.0): bring pairs whose"),
        ("dpo", _one_word, "words alone tell better from worse answers by an AUC of at most 0.75", "told_by_words 1.0): bring worse answers that are right for other prompts"),
        ("kto", _telling, "words alone tell better from worse answers by an AUC of at most 0.75", "told_by_words 1.0): bring worse"),
        ("kto", _all_liked, "train has answers that people disliked", "disliked 0): bring answers that people disliked"),
    ],
)  # fmt: skip
def test_what_would_be_learned_instead_of_the_preference_is_refused(
    root: Path, method: str, change: Callable[[Row], dict[str, Any]], name: str, says: str
) -> None:
    splits = {key: [row.model_copy(update=change(row)) for row in rows] for key, rows in _preferences().items()}
    _write(root, splits)
    with pytest.raises(DataRefused) as caught:
        validate(_taught(method), root)
    assert [failed.name for failed in _failed(root)] == [f"bias: {name}"]
    assert says in f"{caught.value.what}: {caught.value.todo}"


def test_words_that_say_nothing_about_which_answer_is_better_tell_nothing() -> None:
    pairs = [
        (text, better, str(number))
        for number in range(40)
        for text, better in ((f"a {number % 3}", True), (f"a {(number + 1) % 3}", False))
    ]
    found = told_by_words(pairs)
    assert found is not None
    assert found <= 0.6
    assert told_by_words([(f"good {text}" if better else text, better, group) for text, better, group in pairs]) == 1.0
    assert told_by_words([]) is None
    assert told_by_words(pairs[:8]) is None  # of four groups
