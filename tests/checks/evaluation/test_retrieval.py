"""Documents are cut into passages, ranked again, and compared with an answer: without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checks.evaluation.retrieval import Chunker, Reranker, documents, grounded
from checks.formats.suite_report import Gold, Passage, Reading
from checks.records.rows import Message

MODEL = {"uri": "encoder", "sha256": None, "license": None}
CUT: dict[str, tuple[str, int, int, list[str]]] = {
    "shorter than a passage": ("a  b", 3, 1, ["a  b"]),
    "just a passage": ("a b c", 3, 2, ["a b c"]),
    "an overlap": (" a b\nc d e ", 3, 1, ["a b\nc", "c d e"]),
    "a rest": ("a b c d", 3, 2, ["a b c", "b c d"]),
    "no overlap": ("a b c d e", 2, 0, ["a b", "c d", "e"]),
}


@pytest.mark.parametrize("case", CUT)
def test_documents_are_cut_into_passages(case: str) -> None:
    text, words, overlap, expected = CUT[case]
    found = Chunker(words=words, overlap=overlap).cut(Passage(id="d", text=text))
    assert [(each.id, each.text) for each in found] == [(f"d#{n}", part) for n, part in enumerate(expected)]


def test_only_candidates_are_ranked_again_and_equal_ones_stay_in_the_retrievers_order() -> None:
    scores = {("a", "2"): 1.0 + 1e-9, ("a", "0"): 2.0, ("a", "3"): 1.0, ("b", "1"): 0.0}

    def given(pairs: Sequence[tuple[str, str]], most: int | None) -> Any:
        assert most == 7
        return np.array([scores[pair] for pair in pairs])

    reranker = Reranker.model_validate({"model": MODEL, "candidates": 3, "max_tokens": 7})
    assert list(reranker.ranked(list("0123"), ["a", "b", "c"], [[3, 2, 0], [1], []], given)) == [[0, 3, 2], [1], []]


def test_files_of_a_folder_are_documents_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name, text in {"b.md": "two", "a/c.md": "one", "a/x.rst": "left out"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [(each.id, each.text) for each in documents(tmp_path, "*.md")] == [("a/c.md", "one"), ("b.md", "two")]
    with pytest.raises(ValueError, match=r"has no file called \*\.txt"):
        documents(tmp_path, "*.txt")
    (tmp_path / "b.md").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"'b\.md' is no text in UTF-8"):
        documents(tmp_path, "*.md")


GROUNDED = {
    "all of it": ("The queue holds 1000 tasks.", 1.0),
    "another number": ("It holds 2000 tasks.", 2 / 3),
    "words of the question": ("The default length is 1000.", 1.0),
    "a number in another form": ("1,000", 0.0),
    "nothing but short words": ("no, it is on", 1.0),
    "in capitals": ("QUEUE", 1.0),
    "nothing of it": ("Paris, France", 0.0),
}


@pytest.mark.parametrize("case", GROUNDED)
def test_an_answer_is_grounded_as_far_as_the_passages_have_its_words(case: str) -> None:
    answer, share = GROUNDED[case]
    reading = Reading(
        setting="retrieved", question=(Message(role="user", content="What is its default length?"),),
        gold=(Gold(id="d", quote=None, passages=("d",)),), passages=(Passage(id="d", text="The queue holds 1000 tasks"),),
    )  # fmt: skip
    assert grounded(answer, reading) == pytest.approx(share)
