"""Chats of several turns: every answer has a loss, token by token as the chat template says, or the last one alone."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from checks.kinds.chat_template import TEMPLATES
from checks.kinds.method import Train
from checks.process.errors import TrainingRefused
from checks.records.rows import Message, Row
from checks.storage import files, layout
from tests import training_tree
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

TURNS = ("Be brief.", "show the queue", "queue", "and the  disk?", "disk, of\ncourse", "all", "vault")
_OF_TRL = Path(str(metadata.distribution("trl").locate_file("trl"))) / "chat_templates"
_TEXTS = {name: TEMPLATES.kinds[name].text for name in ("chatml", "plain")}
_MARKED = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>\n{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}",
    "plain": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}Assistant:\n"
    "{% generation %}{{ m['content'] }}{{ eos_token }}{{ '\n\n' }}{% endgeneration %}"
    "{% else %}{{ m['role'] | capitalize }}:\n{{ m['content'] }}{{ '\n\n' }}{% endif %}{% endfor %}",
}
# What a model has, and the same with its answers marked, which transformers makes a mask from.
TEMPLATES_MARKED = {name: (_TEXTS[name], _MARKED[name]) for name in _MARKED} | {
    "llama3": tuple(
        (_OF_TRL / f"{name}.jinja").read_text().replace("<|eot_id|>", "<|im_end|>")
        for name in ("llama3", "llama3_training")
    )
}


def _settings(**change: Any) -> Train:
    document = scaled_down()
    document["train"] |= {"batch_size": 8, "max_length": 512} | change
    return as_params(document).train


def _chat(number: int, count: int, system: bool = True) -> Row:
    """A row of ``count`` questions."""
    roles = ("system", *("user", "assistant") * 3)
    turns = [Message(role=role, content=text) for role, text in zip(roles, TURNS, strict=True)]
    turns = turns[0 if system else 1 : 2 * count]
    return training_tree.row(number, "", TURNS[2 * count]).model_copy(update={"messages": tuple(turns)})


def _root(folder: Path, base: Path, rows: list[Row], template: str | None = None) -> Path:
    root = training_tree.make(folder / "root", base)
    for name in ("train", "valid"):
        files.write_jsonl(root / layout.SPLITS / f"{name}.jsonl", rows)
    if template:
        (root / layout.BASE / "chat_template.jinja").write_text(template)
    return root


def _learned(row: dict[str, Any]) -> list[int]:
    """1 where a token of a prepared row has a loss."""
    assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    return [int(label != -100) for label in row["labels"]]


@pytest.mark.parametrize("name", TEMPLATES_MARKED)
def test_every_answer_has_a_loss_from_where_it_is_asked_for_to_its_end(
    name: str, tmp_path: Path, tiny_base: Path
) -> None:
    template, marked = TEMPLATES_MARKED[name]
    rows = [_chat(1, 3), _chat(2, 1), _chat(3, 2, system=False)]
    root = _root(tmp_path, tiny_base, rows, template)
    trainer = training_tree.trainer(_settings(early_stopping={"patience": 1, "per_epoch": 1}), root, root / "scratch")
    for row, prepared, valid in zip(rows, trainer.train_dataset, trainer.eval_dataset, strict=True):
        whole = trainer.processing_class.apply_chat_template(
            [*(each.model_dump() for each in row.messages), {"role": "assistant", "content": row.reference}],
            chat_template=marked, return_dict=True, return_assistant_tokens_mask=True,
        )  # fmt: skip
        assert prepared["input_ids"] == valid["input_ids"] == whole["input_ids"]
        assert _learned(prepared) == _learned(valid) == whole["assistant_masks"]
        assert 0 < sum(whole["assistant_masks"]) < len(whole["input_ids"])


def test_an_earlier_answer_that_goes_on_after_an_end_token_is_refused_with_its_number(
    tmp_path: Path, tiny_base: Path
) -> None:
    chat = _chat(2, 3)
    *asked, answer, last = chat.messages
    answer = answer.model_copy(update={"content": "disk<|im_end|>vault"})
    broken = chat.model_copy(update={"messages": (*asked, answer, last)})
    root = _root(tmp_path, tiny_base, [_chat(1, 2), broken])
    with pytest.raises(
        TrainingRefused, match=r"row 0000000000000002: answer 2: the answer has an end token at token 3 of 7"
    ):
        training_tree.trainer(_settings(), root, root / "scratch")
    training_tree.trainer(_settings(loss_turns="last"), root, root / "scratch")


def test_the_loss_of_a_chat_is_that_of_each_of_its_answers_asked_alone(tmp_path: Path, tiny_base: Path) -> None:
    chat = [_chat(number, count) for number, count in enumerate((3, 1, 2))]
    alone = [_chat(number, count) for number, count in enumerate((1, 2, 3, 1, 1, 2))]
    losses = []
    for rows, turns in ((chat, "all"), (alone, "last")):
        root = _root(tmp_path / turns, tiny_base, rows)
        trainer = training_tree.trainer(_settings(loss_turns=turns), root, root / "scratch")
        trainer.model.eval()
        losses.append(trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset))).item())
        if turns == "last":
            assert all(sum(_learned(row)) < 20 for row in trainer.train_dataset)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_packing_keeps_the_loss_of_every_answer(tmp_path: Path, tiny_base: Path) -> None:
    root = _root(tmp_path, tiny_base, [_chat(number, 1 + number % 3) for number in range(6)])
    found = [
        sum(
            sum(_learned(row))
            for row in training_tree.trainer(_settings(packing=how), root, root / "scratch").train_dataset
        )
        for how in (False, "bfd")
    ]
    assert found[0] == found[1]


def test_a_template_that_renders_earlier_answers_otherwise_is_refused_with_the_row(
    tmp_path: Path, tiny_base: Path
) -> None:
    template = (_OF_TRL / "qwen3.jinja").read_text()  # an answer without thinking is rendered with an empty one
    root = _root(tmp_path, tiny_base, [_chat(1, 1), _chat(2, 3)], template)
    with pytest.raises(
        TrainingRefused, match=r"row 0000000000000002: .* answer 1 otherwise .*; set train\.loss_turns to last"
    ):
        training_tree.trainer(_settings(), root, root / "scratch")
    last = training_tree.trainer(_settings(loss_turns="last"), root, root / "scratch")
    text = [token for token in last.train_dataset[1]["labels"] if token != -100]
    assert last.processing_class.decode(text) == "<think>\n\n</think>\n\nvault<|im_end|>\n"
