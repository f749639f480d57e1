"""Answers of single batches on a tiny real model: an evaluation goes on, and gives the bytes of one from scratch."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checks.config.pipeline_params import Evaluate
from checks.process.errors import ParamsRefused
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from stages.inference import answers, generate
from stages.inference.answers import Answered
from stages.inference.batches import Answer, Asked, cut
from stages.inference.kept_batches import KeptBatches
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

SAME, OTHER = digest.of_bytes(b"same"), digest.of_bytes(b"other")
BATCH = (Asked((5, 6, 7)), Asked((5, 6)), Asked((5, 9)))
GIVEN = [Answer((1, 2), 0.5), Answer((), 0.25), Answer((3,), 0.75)]


def drawn(count: int, seed: int) -> list[Asked]:
    generator = random.Random(seed)
    return [Asked(tuple(generator.randrange(1000) for _ in range(generator.randint(5, 40)))) for _ in range(count)]


def batches(prompts: list[Asked], stable: bool, room: int = 512) -> list[tuple[Asked, ...]]:
    ordered = sorted(set(prompts), key=lambda prompt: (-len(prompt.tokens), prompt))
    return [tuple(batch) for batch in cut(ordered, 0, 20, room, stable)]


def test_all_prompts_are_in_one_batch_longest_first_and_none_reads_more_than_there_is_room_for() -> None:
    prompts = drawn(700, 1)
    for stable in (False, True):
        for room in (1, 30, 512, 1 << 20):
            found = batches(prompts, stable, room)
            assert [prompt for batch in found for prompt in batch] == sorted(prompts, key=lambda p: (-len(p.tokens), p))
            assert all(len(batch) == 1 or len(batch) * len(batch[0].tokens) <= room for batch in found)
    assert len(batches(prompts, True)) < 3 * len(batches(prompts, False))
    assert list(cut([], 0, 20, 512, True)) == []


@pytest.mark.parametrize(("more", "stable", "by_length"), [(1, 0.97, 0.9), (20, 0.8, 0.15)])
def test_more_prompts_leave_most_stable_batches_as_they_are(more: int, stable: float, by_length: float) -> None:
    prompts, new = drawn(2000, 1), drawn(more, 2)
    before = {each: set(batches(prompts, each)) for each in (True, False)}
    after = {each: set(batches([*prompts, *new], each)) for each in (True, False)}
    stay = {each: sum(map(len, before[each] & after[each])) / len(prompts) for each in (True, False)}
    assert stay[True] > stable
    assert stay[False] < by_length
    assert batches([*new, *prompts][more:], True) == batches(prompts, True)  # whatever came and went before


def rows(numbers: list[int]) -> list[Row]:
    return [
        Row(
            id=f"{number:016x}", messages=(Message(role="user", content=f"show the disk {number} {'of it ' * (number % 7)}"),),
            reference="vm", group=f"g{number}", slice="all", source=f"file:{number}",
        )
        for number in numbers
    ]  # fmt: skip


def settings(**change: Any) -> Evaluate:
    value = scaled_down()
    value["evaluate"] |= {"batch_tokens": 240, "max_new_tokens": 8} | change
    return as_params(value).evaluate


def ask(root: Path, how: Evaluate, folder: Path, numbers: list[int]) -> Answered:
    asked = rows(numbers)
    return answers.ask(root, how, folder, digest.of_tree(folder).digest, asked, [row.messages for row in asked], "base")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pass that reads prompts. After ``read[0]`` of them, if it is not 0, one fails."""
    found, real = [0], generate._answer

    def counted(model: Any, batch: Any, *rest: Any) -> Any:
        if found[0] and len(found) > found[0]:
            raise RuntimeError("killed")
        found.append(len(batch))
        return real(model, batch, *rest)

    monkeypatch.setattr(generate, "_answer", counted)
    return found


@pytest.mark.parametrize("stable", [False, True])
def test_an_evaluation_that_ended_half_way_goes_on_to_the_same_answers(
    tmp_path: Path, tiny_base: Path, read: list[int], stable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    how, numbers = settings(stable_batches=stable), list(range(40))
    whole = ask(tmp_path / "whole", how, tiny_base, numbers)
    batches = len(read) - 1
    assert batches > 6
    del read[1:]
    read[0] = 4
    with pytest.raises(RuntimeError, match="killed"):
        ask(tmp_path / "killed", how, tiny_base, numbers)
    assert not (tmp_path / "killed" / layout.ANSWERS).exists()
    kept = len(list((tmp_path / "killed" / layout.BATCHES).glob("*.json")))
    assert kept >= 2  # with two threads, a batch that was stopped is not kept
    del read[1:]
    read[0] = 0
    again = ask(tmp_path / "killed", how, tiny_base, numbers)
    assert again.texts == whole.texts
    assert len(read) - 1 == batches - kept
    assert f"base: {40 - sum(read)} of 40 prompts answered before" in capsys.readouterr().err
    assert again.speed is not None
    assert again.speed > 0


def test_rows_that_come_go_and_change_give_the_answers_of_a_run_from_scratch(
    tmp_path: Path, tiny_base: Path, read: list[int]
) -> None:
    how, numbers, generator = settings(stable_batches=True), list(range(120)), random.Random(3)
    ask(tmp_path / "kept", how, tiny_base, numbers)
    for turn in range(3):
        del read[1:]
        gone = set(generator.sample(numbers, 2))
        numbers = [number + 1000 * (turn == 1 and number == 50) for number in numbers if number not in gone]
        numbers += generator.sample(range(10_000, 20_000), turn)
        generator.shuffle(numbers)
        found = ask(tmp_path / "kept", how, tiny_base, numbers)
        few = sum(read)
        assert 0 < few < len(numbers) / 2, "all but a few batches are those of before"
        del read[1:]
        assert found.texts == ask(tmp_path / f"fresh-{turn}", how, tiny_base, numbers).texts
        assert sum(read) == len(numbers)


def test_another_model_or_setting_finds_no_batch_and_calibrate_reads_none(
    tmp_path: Path, tiny_base: Path, read: list[int]
) -> None:
    numbers = list(range(12))
    ask(tmp_path, settings(), tiny_base, numbers)
    for change in ({"max_new_tokens": 9}, {"precision": "bf16"}):
        del read[1:]
        ask(tmp_path, settings(**change), tiny_base, numbers)
        assert sum(read) == 12
    del read[1:]
    model = answers.loaded(tmp_path, settings(), tiny_base)
    model(settings(), rows(numbers), [row.messages for row in rows(numbers)], "calibrate", Path("test"))
    assert sum(read) == 12


def key(**change: Any) -> answers.Key:
    value = {
        "model": SAME, "asked": SAME, "rows": 3, "max_new_tokens": 6, "batch_tokens": 120, "stable_batches": False,
        "precision": "bf16", "engine": None, "decoding": None, "json_schema": None, "device": "cpu", "threads": 2, "versions": {"torch": "2"},
        "code": SAME,
    }  # fmt: skip
    return answers.Key.model_validate(value | change)


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"model": OTHER}, True), ({"max_new_tokens": 7}, True), ({"precision": "fp32"}, True), ({"device": "b"}, True),
        ({"threads": 1}, True), ({"versions": {"torch": "3"}}, True), ({"code": OTHER}, True),
        ({"decoding": {"temperature": 1.0, "top_p": 1.0, "draws": 1, "seed": 1}}, True),
        ({"json_schema": "{}"}, True), ({"asked": OTHER, "rows": 4}, False), ({"batch_tokens": 60, "stable_batches": True}, False),
    ],
)  # fmt: skip
def test_what_decides_the_answers_of_a_batch_beside_its_prompts(change: dict[str, Any], decides: bool) -> None:
    assert (key(**change).of_batches != key().of_batches) is decides


def test_a_batch_is_found_by_its_prompts_in_order_and_by_what_was_read_before(tmp_path: Path) -> None:
    kept = KeptBatches(tmp_path, SAME)
    kept.keep(1, BATCH, GIVEN)
    assert kept.get(1, BATCH) == GIVEN
    assert (kept.rows, kept.seconds) == (3, 0.75)
    assert kept.get(0, BATCH) is None
    assert kept.get(1, BATCH[:2]) is None
    assert kept.get(1, (*BATCH[1:], BATCH[0])) is None
    assert kept.get(1, (Asked((5, 6)), Asked((7, 5, 6)), BATCH[2])) is None
    assert kept.get(1, (*BATCH[:2], BATCH[2]._replace(stream="7"))) is None
    assert KeptBatches(tmp_path, OTHER).get(1, BATCH) is None


def _sealed(path: Path, **change: Any) -> None:
    entry = {name: value for name, value in (json.loads(path.read_text()) | change).items() if name != "content"}
    files.write_json(path, entry | {"content": digest.of_json(entry)})


DAMAGED: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "an answer edited": lambda path: files.write_json(
        path, json.loads(path.read_text()) | {"tokens": [[1, 4], [], [3]]}
    ),
    "an answer too few": lambda path: _sealed(path, tokens=[[1], [2]], seconds=[0.1, 0.1]),
    "a latency too few": lambda path: _sealed(path, seconds=[0.1, 0.1]),
    "of another key": lambda path: _sealed(path, key=OTHER),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_counts_for_nothing_and_is_written_again(tmp_path: Path, damage: str) -> None:
    kept = KeptBatches(tmp_path, SAME)
    kept.keep(1, BATCH, GIVEN)
    (path,) = (tmp_path / layout.BATCHES).iterdir()
    DAMAGED[damage](path)
    assert kept.get(1, BATCH) is None
    assert kept.rows == 0
    kept.keep(1, BATCH, GIVEN)
    assert kept.get(1, BATCH) == GIVEN


def test_a_batch_that_cannot_be_kept_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.write_text(tmp_path / layout.BATCHES, "a file where the folder should be")
    kept = KeptBatches(tmp_path, SAME)
    kept.keep(1, BATCH, GIVEN)
    kept.keep(2, BATCH, GIVEN)
    assert capsys.readouterr().err.count("not kept: ") == 1


def test_vllm_makes_its_own_batches() -> None:
    engine = {
        "kind": "vllm", "version": "1", "max_rows": 8, "kv_cache_gb": 1.0, "gpus": 1, "compiled": False,
        "batch_invariant": False,
    }  # fmt: skip
    with pytest.raises(
        ParamsRefused, match="stable_batches has no effect with engine vllm, which forms its own batches"
    ):
        settings(engine=engine, stable_batches=True)


def test_stable_batches_are_another_prompt_format(tiny_base: Path) -> None:
    assert answers.prompt_format(tiny_base, settings()) != answers.prompt_format(
        tiny_base, settings(stable_batches=True)
    )


@pytest.fixture(autouse=True)
def _two_threads() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
