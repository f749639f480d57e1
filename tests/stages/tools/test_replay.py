"""The rows with which the default keeps its base's answers, and the tool that makes them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from checks.process.errors import EvidenceRefused
from stages.tools.replay import first_sentence
from tests.conftest import REPOSITORY

TEXTS = REPOSITORY / "stages" / "texts"


def lines(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (TEXTS / name).read_text().splitlines()]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Bees make honey. They live in hives.", "Bees make honey."),
        ("Is it 3.5 metres long? Yes.", "Is it 3.5 metres long?"),
        ("It is\nvery cold!\nWear a coat.", "It is\nvery cold!"),
        ("1. An apple, 2. a pear.", None),
        ("A cat.", None),
        ("It goes on and on and", None),
        ("", None),
    ],
)
def test_an_answer_is_its_first_sentence(text: str, sentence: str | None) -> None:
    assert first_sentence(text) == sentence


def test_no_question_of_the_suite_is_learnt() -> None:
    asked, learnt = lines("everyday.jsonl"), lines("replay.jsonl")
    assert not {row["prompt"] for row in asked} & {row["prompt"] for row in learnt}
    begins = {" ".join(row["prompt"].split()[:4]) for row in learnt}  # "What is the capital"
    assert [row["prompt"] for row in asked if " ".join(row["prompt"].split()[:4]) in begins] == []


def test_every_row_is_a_sentence_and_asked_once() -> None:
    learnt = lines("replay.jsonl")
    assert len({row["prompt"] for row in learnt}) == len(learnt) > 200
    assert all(first_sentence(row["reference"]) == row["reference"] for row in learnt)


@pytest.mark.slow
def test_a_file_without_prompts_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Why?"}\n')
    done = subprocess.run(
        [sys.executable, "-m", "stages.tools.replay", str(tmp_path / "q.jsonl"), str(tmp_path / "out.jsonl"), "--max-tokens", "20"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (EvidenceRefused.exit_code, 1), done.stderr
    assert "q.jsonl:1" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
