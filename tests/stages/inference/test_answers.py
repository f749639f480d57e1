"""The cache of answers on a tiny real model: what hits, what never may, what a damaged entry costs."""

import importlib.metadata
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checks.code import lock, modules
from checks.config.pipeline_params import Evaluate
from checks.formats.decoding import Decoding
from checks.records.rows import Message, Row
from checks.storage import digest, files, layout
from stages.inference import answers, generate
from stages.inference.answers import Answered
from tests.conftest import CHAT_TEMPLATE, as_params, scaled_down

pytestmark = pytest.mark.slow


def rows(count: int) -> list[Row]:
    return [
        Row(
            id=f"{number:016x}", messages=(Message(role="user", content=f"show the disk {number}"),), reference="vm",
            group=f"g{number}", slice="all", source=f"file:{number}",
        )
        for number in range(count)
    ]  # fmt: skip


def ask(root: Path, settings: Evaluate, folder: Path, asked: list[Row] | None = None) -> Answered:
    """The tiny model's answers to five rows, or to ``asked``, as evaluate asks for them."""
    asked = rows(5) if asked is None else asked
    model = digest.of_tree(folder).digest
    return answers.ask(root, settings, folder, model, asked, [row.messages for row in asked], "candidate")


@pytest.fixture
def settings() -> Evaluate:
    return as_params(scaled_down()).evaluate


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that models are really loaded from, as they are."""
    loaded: list[Path] = []
    real = generate.load

    def counted(folder: Path, precision: str) -> tuple[Any, Any]:
        loaded.append(folder)
        return real(folder, precision)

    monkeypatch.setattr(generate, "load", counted)
    return loaded


def entry_of(root: Path) -> Path:
    (path,) = (root / layout.ANSWERS).iterdir()
    return path


def key_of(settings: Evaluate, folder: Path, asked: list[Row]) -> answers.Key:
    return answers.key_of(Path(), settings, digest.of_tree(folder).digest, asked, [row.messages for row in asked])


@pytest.fixture(scope="module")
def asked_before(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A repository whose cache holds the tiny model's answers to five rows. Read-only by custom."""
    root = tmp_path_factory.mktemp("asked")
    ask(root, as_params(scaled_down()).evaluate, tiny_base)
    return root


def test_an_unchanged_model_is_not_loaded_and_answers_with_the_same_bytes(
    tmp_path: Path, tiny_base: Path, settings: Evaluate, loads: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first = ask(tmp_path, settings, tiny_base)
    assert "answered before" not in capsys.readouterr().err
    before = entry_of(tmp_path).read_bytes()
    assert ask(tmp_path, settings, tiny_base) == first
    assert "candidate: answered before, 5 rows from .lockstep/answers/" in capsys.readouterr().err
    assert loads == [tiny_base]
    assert entry_of(tmp_path).read_bytes() == before


def test_a_model_that_moved_is_the_same_model(
    tmp_path: Path, tiny_base: Path, settings: Evaluate, loads: list[Path]
) -> None:
    first = ask(tmp_path, settings, tiny_base)
    shutil.copytree(tiny_base, tmp_path / "moved")
    assert ask(tmp_path, settings, tmp_path / "moved") == first
    assert len(loads) == 1


def reworded(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return (*messages[:-1], messages[-1].model_copy(update={"content": messages[-1].content + "!"}))


ROWS: dict[str, Callable[[list[Row]], list[Row]]] = {
    "a row more": lambda _: rows(6),
    "a row less": lambda was: was[:-1],
    "two rows swapped": lambda was: [was[1], was[0], *was[2:]],
    "another id": lambda was: [was[0].model_copy(update={"id": "f" * 16}), *was[1:]],
    "another word": lambda was: [was[0].model_copy(update={"messages": reworded(was[0].messages)}), *was[1:]],
    "another role": lambda was: [
        was[0].model_copy(update={"messages": (was[0].messages[0].model_copy(update={"role": "system"}),)}), *was[1:]
    ],
    "a message more": lambda was: [was[0].model_copy(update={"messages": was[0].messages * 2}), *was[1:]],
    "a message split in two": lambda was: [
        was[0].model_copy(
            update={"messages": tuple(Message(role="user", content=c) for c in ("show the", "disk 0"))}
        ),
        *was[1:],
    ],
}  # fmt: skip


@pytest.mark.parametrize("change", ROWS)
def test_other_rows_miss(asked_before: Path, tiny_base: Path, settings: Evaluate, change: str) -> None:
    assert answers.kept(asked_before, key_of(settings, tiny_base, rows(5))) is not None
    assert answers.kept(asked_before, key_of(settings, tiny_base, ROWS[change](rows(5)))) is None


SETTINGS: dict[str, dict[str, Any]] = {
    "longer answers": {"max_new_tokens": 9},
    "other batches": {"batch_tokens": 2047},
    "another precision": {"precision": "bf16"},
    "sampled answers": {"decoding": Decoding(temperature=1.0, top_p=1.0, draws=1, seed=1)},
    "answers that fit a schema": {"json_schema": '{"type": "object"}'},
}


@pytest.mark.parametrize("change", SETTINGS)
def test_other_settings_miss(asked_before: Path, tiny_base: Path, settings: Evaluate, change: str) -> None:
    other = settings.model_copy(update=SETTINGS[change])
    assert answers.kept(asked_before, key_of(other, tiny_base, rows(5))) is None


def test_settings_that_decide_no_answer_hit(asked_before: Path, tiny_base: Path, settings: Evaluate) -> None:
    other = settings.model_copy(update={"confidence": 0.9, "baselines": ()})
    assert answers.kept(asked_before, key_of(other, tiny_base, rows(5))) is not None


def test_what_misses_is_answered_by_the_model_and_kept_beside(
    tmp_path: Path, tiny_base: Path, settings: Evaluate, loads: list[Path]
) -> None:
    ask(tmp_path, settings, tiny_base)
    other = settings.model_copy(update={"max_new_tokens": 3})
    short = ask(tmp_path, other, tiny_base, rows(6))
    assert len(loads) == 2
    assert len(short.texts) == 6
    assert ask(tmp_path, other, tiny_base, rows(6)) == short
    assert len(ask(tmp_path, settings, tiny_base).texts) == 5
    assert len(loads) == 2


@pytest.mark.parametrize(
    "package", ["torch", "transformers", "tokenizers", "jinja2", "compressed-tensors", "llguidance"]
)
def test_another_version_of_a_package_misses(
    asked_before: Path, tiny_base: Path, settings: Evaluate, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == package else real(name))
    assert answers.kept(asked_before, key_of(settings, tiny_base, rows(5))) is None


@pytest.mark.parametrize("edited", answers.CODE)
def test_other_code_misses(
    tmp_path: Path,
    asked_before: Path,
    tiny_base: Path,
    settings: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    edited: str,
) -> None:
    stages = Path(answers.__file__).parents[1]
    shutil.copytree(stages / "inference", tmp_path / "inference")
    for name in answers.CODE:
        shutil.copyfile(stages / name, tmp_path / name)
    monkeypatch.setattr(answers, "_STAGES", tmp_path)
    assert answers.kept(asked_before, key_of(settings, tiny_base, rows(5))) is not None
    with (tmp_path / edited).open("a", encoding="utf-8") as stream:
        stream.write("# edited\n")
    assert answers.kept(asked_before, key_of(settings, tiny_base, rows(5))) is None


def test_another_device_or_number_of_threads_misses(
    asked_before: Path, tiny_base: Path, settings: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert answers.kept(asked_before, key_of(settings, tiny_base, rows(5))) is None
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(answers, "device", lambda: "another")
    assert answers.kept(asked_before, key_of(settings, tiny_base, rows(5))) is None


def test_every_module_that_makes_an_answer_is_part_of_the_code() -> None:
    found = modules.of_stage("inference/answers", frozenset(), lock.running())
    made_by = {path for path in found if path.startswith("stages/") and not path.endswith("__init__.py")}
    assert made_by == {f"stages/{name}" for name in answers.CODE}


def _weights(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


MODELS: dict[str, Callable[[Path], object]] = {
    "one bit of a weight": _weights,
    "the chat template": lambda folder: (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + " "),
    "the tokenizer's file": lambda folder: (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text() + "\n"
    ),
    "the generation config": lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}'),
}


@pytest.mark.parametrize("change", MODELS)
def test_two_models_never_share_an_answer(
    tmp_path: Path, tiny_base: Path, settings: Evaluate, loads: list[Path], change: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    MODELS[change](other)
    ask(tmp_path, settings, tiny_base)
    ask(tmp_path, settings, other)
    assert loads == [tiny_base, other]
    assert len(list((tmp_path / layout.ANSWERS).iterdir())) == 2


def _field(name: str, value: Any) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        files.write_json(path, json.loads(path.read_text()) | {name: value})

    return spoil


def _sealed(**change: Any) -> Callable[[Path], object]:
    """Change fields and make the digest of the content right again."""

    def spoil(path: Path) -> None:
        entry = json.loads(path.read_text()) | change
        entry["content"] = digest.of_json({name: value for name, value in entry.items() if name != "content"})
        files.write_json(path, entry)

    return spoil


def _of_another_key(path: Path) -> None:
    entry = json.loads(path.read_text())
    _sealed(key=entry["key"] | {"model": digest.of_bytes(b"another model")})(path)


ENTRIES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "not JSON": lambda path: path.write_text("answers"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "an answer edited": _field("texts", ["vm"] * 5),
    "a latency edited": _field("seconds", [0.0] * 5),
    "the speed edited": _field("speed", 1e9),
    "the digest edited": _field("content", digest.of_bytes(b"x")),
    "an unknown field": _field("more", 1),
    "of another key": _of_another_key,
    "too few rows": _sealed(texts=["vm"] * 4, seconds=[0.1] * 4),
    "too many rows": _sealed(texts=["vm"] * 6, seconds=[0.1] * 6),
    "a latency too few": _sealed(seconds=[0.1] * 4),
    "a latency below zero": _sealed(seconds=[-1.0] * 5),
}


@pytest.mark.parametrize("damage", ENTRIES)
def test_a_damaged_entry_counts_for_nothing(tmp_path: Path, tiny_base: Path, settings: Evaluate, damage: str) -> None:
    key = key_of(settings, tiny_base, rows(5))
    answers.keep(tmp_path, key, Answered(["a", "b", "", "ü", "e"], [0.25] * 5, 1.5))
    assert answers.kept(tmp_path, key) == Answered(["a", "b", "", "ü", "e"], [0.25] * 5, 1.5)
    ENTRIES[damage](tmp_path / key.path)
    assert answers.kept(tmp_path, key) is None


def test_a_damaged_entry_is_made_again(tmp_path: Path, tiny_base: Path, settings: Evaluate, loads: list[Path]) -> None:
    first = ask(tmp_path, settings, tiny_base)
    ENTRIES["truncated"](entry_of(tmp_path))
    assert ask(tmp_path, settings, tiny_base).texts == first.texts
    assert ask(tmp_path, settings, tiny_base).texts == first.texts
    assert len(loads) == 2


def test_another_models_entry_under_this_ones_name_is_not_taken(
    tmp_path: Path, tiny_base: Path, settings: Evaluate, loads: list[Path]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    _weights(other)
    ask(tmp_path, settings, other)
    foreign = entry_of(tmp_path)
    ask(tmp_path, settings, tiny_base)
    (own,) = set((tmp_path / layout.ANSWERS).iterdir()) - {foreign}
    shutil.copyfile(foreign, own)
    ask(tmp_path, settings, tiny_base)
    assert loads == [other, tiny_base, tiny_base]


def test_answers_that_cannot_be_kept_are_still_given(
    tmp_path: Path, tiny_base: Path, settings: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write_text(tmp_path / layout.ANSWERS, "a file where the folder should be")
    assert len(ask(tmp_path, settings, tiny_base).texts) == 5
    assert "not kept: " in capsys.readouterr().err
    assert (tmp_path / layout.ANSWERS).is_file()


def _keep(root: Path, key: answers.Key, start: Any, found: Answered) -> None:
    start.wait()
    for _ in range(40):
        answers.keep(root, key, found)


def test_two_processes_that_write_at_once_leave_one_whole_entry(
    tmp_path: Path, tiny_base: Path, settings: Evaluate
) -> None:
    key = key_of(settings, tiny_base, rows(5))
    found = [Answered([name] * 5, [0.1] * 5, 1.0) for name in ("one", "two")]
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    writers = [context.Process(target=_keep, args=(tmp_path, key, start, one)) for one in found]
    for writer in writers:
        writer.start()
    start.wait()
    seen = []
    while any(writer.is_alive() for writer in writers):
        seen.append(answers.kept(tmp_path, key))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert answers.kept(tmp_path, key) in found
    first = next(number for number, one in enumerate(seen) if one is not None)
    assert all(one in found for one in seen[first:])
    assert [path.name for path in (tmp_path / layout.ANSWERS).iterdir()] == [key.path.name]


def test_the_prompt_format_is_template_length_and_precision(
    tmp_path: Path, tiny_base: Path, settings: Evaluate
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    _weights(other)
    found = answers.prompt_format(tiny_base, settings)
    assert answers.prompt_format(other, settings) == found
    assert answers.prompt_format(tiny_base, settings.model_copy(update={"batch_tokens": 7, "confidence": 0.5})) == found
    (other / "chat_template.jinja").write_text(CHAT_TEMPLATE + " ")
    changed = {
        answers.prompt_format(other, settings),
        answers.prompt_format(tiny_base, settings.model_copy(update={"max_new_tokens": 9})),
        answers.prompt_format(tiny_base, settings.model_copy(update={"precision": "bf16"})),
    }
    assert len(changed | {found}) == 4
