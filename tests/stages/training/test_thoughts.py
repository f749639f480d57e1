"""What is learned of thoughts, and of a chat whose template drops the thoughts of earlier turns, as Qwen3's does."""

from pathlib import Path
from typing import Any

import pytest

from checks.formats.thinking import Thinking
from checks.kinds.method import Train
from checks.process.errors import TrainingRefused
from checks.records.rows import Message, Row
from checks.storage import files, layout
from stages.weights import chat_template
from tests import training_tree
from tests.conftest import as_params, scaled_down
from tests.thinking_template import TEMPLATE

pytestmark = pytest.mark.slow

FIRST, LAST = "<think>\nit is first\n</think>\n\nqueue", "<think>\nit is last\n</think>\n\nvault"
CHAT = ("name the key", "show the queue", FIRST, "and the vault")
HEAD = "<|im_start|>system\nname the key<|im_end|>\n<|im_start|>user\nshow the queue<|im_end|>\n<|im_start|>assistant\n"
LATER = f"{HEAD}queue<|im_end|>\n<|im_start|>user\nand the vault<|im_end|>\n<|im_start|>assistant\n"
EMPTY = "<think>\n\n</think>\n\n"


def _settings(**change: Any) -> Train:
    document = scaled_down()
    document["train"] |= {"batch_size": 8, "max_length": 512} | change
    return as_params(document).train


def _row(reference: str = LAST, first: str = FIRST) -> Row:
    roles = ("system", "user", "assistant", "user")
    texts = (*CHAT[:2], first, CHAT[3])
    turns = [Message(role=role, content=text) for role, text in zip(roles, texts, strict=True)]
    return training_tree.row(1, "", reference).model_copy(update={"messages": tuple(turns)})


def _root(folder: Path, base: Path, row: Row, mode: Any = "always") -> Path:
    root = training_tree.make(folder / "root", base)
    for name in ("train", "valid"):
        files.write_jsonl(root / layout.SPLITS / f"{name}.jsonl", [row])
    (root / layout.BASE / "chat_template.jinja").write_text(TEMPLATE)
    if mode:
        chat_template.give_thinking(root / layout.BASE, Thinking(mode=mode))
    return root


def _learned(root: Path, **change: Any) -> list[tuple[str, str]]:
    """Of each row that is trained on: what is read first, and the text with a loss."""
    trainer = training_tree.trainer(_settings(**change), root, root / "scratch")
    parts = []
    for row in trainer.train_dataset:
        labels = [label for label in row["labels"] if label != -100]
        assert [*row["input_ids"]][-len(labels) :] == labels
        decode = trainer.processing_class.decode
        parts.append((decode(row["input_ids"][: -len(labels)]), decode(labels).rstrip("\n")))
    return parts


@pytest.mark.parametrize(
    ("thoughts", "learned"),
    [
        ("learn", [(HEAD, f"{FIRST}<|im_end|>"), (LATER, f"{LAST}<|im_end|>")]),
        (
            "mask",
            [
                (f"{HEAD}<think>\nit is first\n</think>", "\n\nqueue<|im_end|>"),
                (f"{LATER}<think>\nit is last\n</think>", "\n\nvault<|im_end|>"),
            ],
        ),
        ("drop", [(HEAD, f"{EMPTY}queue<|im_end|>"), (LATER, f"{EMPTY}vault<|im_end|>")]),
    ],
)
def test_each_answer_of_a_chat_is_learned_as_the_model_is_asked_for_it(
    tmp_path: Path, tiny_base: Path, thoughts: str, learned: list[tuple[str, str]]
) -> None:
    root = _root(tmp_path, tiny_base, _row())
    assert _learned(root, thoughts=thoughts) == learned
    assert _learned(root, thoughts=thoughts, loss_turns="last") == learned[1:]


def test_a_model_that_never_thinks_learns_answers_behind_a_closed_thought(tmp_path: Path, tiny_base: Path) -> None:
    root = _root(tmp_path, tiny_base, _row(), "never")
    learned = [(f"{HEAD}{EMPTY}", "queue<|im_end|>"), (f"{LATER}{EMPTY}", "vault<|im_end|>")]
    assert _learned(root, thoughts="drop") == learned
    for thoughts in ("learn", "mask"):
        with pytest.raises(
            TrainingRefused, match=r"has a thought, and base.thinking.mode is never; set train.thoughts"
        ):
            _learned(root, thoughts=thoughts)
    plain = _root(tmp_path / "plain", tiny_base, _row("vault", "queue"), "never")
    assert _learned(plain) == learned


def test_without_base_thinking_such_a_template_is_refused_as_before(tmp_path: Path, tiny_base: Path) -> None:
    root = _root(tmp_path, tiny_base, _row(), None)
    with pytest.raises(TrainingRefused, match="renders answer 1 otherwise once other turns follow"):
        _learned(root)


def test_valid_rows_are_prepared_alike(tmp_path: Path, tiny_base: Path) -> None:
    root = _root(tmp_path, tiny_base, _row())
    settings = _settings(thoughts="mask", early_stopping={"patience": 1, "per_epoch": 1})
    trainer = training_tree.trainer(settings, root, root / "scratch")
    assert [*trainer.eval_dataset["labels"]] == [*trainer.train_dataset["labels"]]
    assert len(trainer.eval_dataset) == 2


def test_a_reward_is_for_the_answer_behind_the_thought(tmp_path: Path, tiny_base: Path) -> None:
    settings = _settings(
        method="grpo", reward={"kind": "exact-match"}, num_generations=2, max_completion_length=60, beta=0.0,
        temperature=1.0,
    )  # fmt: skip
    root = _root(tmp_path, tiny_base, _row())
    trainer = training_tree.trainer(settings, root, root / "scratch")
    (columns,) = trainer.train_dataset.to_list()
    said = [LAST, "vault", "<think>\nvault", "<think>\n</think>queue"]
    completions = [[{"role": "assistant", "content": text}] for text in said]
    (reward,) = trainer.reward_funcs
    given = {name: [columns[name]] * len(said) for name in ("reference", "thinking")}
    assert reward(completions, **given) == [1, 0, 0, 0]
    assert reward(completions, reference=["vault"] * len(said)) == [0, 1, 0, 0]
