"""What is read of requests and answers, what is stored of them, and where files go: without a server."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from checks.data import signals
from checks.formats import captures
from release.monitoring.gateway import store
from release.monitoring.gateway.answers import Events, ParsedAnswer, whole
from release.monitoring.gateway.metrics import CounterName
from release.monitoring.gateway.rows import Exchange, row, sampled
from release.monitoring.gateway.store import CaptureWriter
from tests.conftest import REPOSITORY

NOW = datetime(2026, 11, 26, 16, 20, tzinfo=UTC)


def exchange(body: Any = None, answer: ParsedAnswer | None = None, **fields: Any) -> Exchange:
    given: dict[str, Any] = {"status": 200, "answer": answer or ParsedAnswer()} | fields
    return Exchange(NOW, "r1", "chat", b"" if body is None else json.dumps(body).encode(), **given)


def stored(body: Any = None, answer: ParsedAnswer | None = None, **fields: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(row(exchange(body, answer, **fields), "staging", 0.5).model_dump_json())
    return plain


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


CALL = {"id": "c1", "type": "function", "function": {"name": "mail", "arguments": '{"to": "ada@mail.example.org"}'}}
PROMPTS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "a chat": (
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "call +44 20 7946 0958"}]},
        [
            {"role": "system", "parts": [{"type": "text", "content": "be brief"}]},
            {"role": "user", "parts": [{"type": "text", "content": "call [phone]"}]},
        ],
    ),
    "parts, of which an image is not stored": (
        user({"type": "text", "text": "8.8.8.8"}, {"type": "image_url", "image_url": {"url": "data:x"}}),
        [{"role": "user", "parts": [{"type": "text", "content": "[ip_address]"}, {"type": "image_url"}]}],
    ),
    "a call of a tool": (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        [{"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "mail", "arguments": '{"to": "[email]"}'}]}],
    ),
    "an answer of a tool": (
        {"messages": [{"role": "tool", "tool_call_id": "c1", "content": [{"text": "to ada@mail.example.org"}]}]},
        [{"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": [{"text": "to [email]"}]}]}],
    ),
    "names that a client chose": (
        {"messages": [
            {"role": "ada@mail.example.org", "content": [{"type": "x ada@mail.example.org"}]},
            {"role": "tool", "tool_call_id": "ada@mail.example.org", "content": ""},
            {"role": "assistant", "tool_calls": [{"id": "8.8.8.8", "function": {"name": "ada@mail.example.org", "arguments": ""}}]},
        ]},
        [
            {"role": "[email]", "parts": [{"type": "x [email]"}]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "[email]"}]},
            {"role": "assistant", "parts": [{"type": "tool_call", "id": "[ip_address]", "name": "[email]"}]},
        ],
    ),
    "a thought that a client sends back": (
        {"messages": [{"role": "assistant", "reasoning": "for ada@mail.example.org", "content": "az"}]},
        [{"role": "assistant", "parts": [
            {"type": "reasoning", "content": "for [email]"}, {"type": "text", "content": "az"},
        ]}],
    ),
    "prompts": (
        {"prompt": ["one", "two"]},
        [{"role": "user", "parts": [{"type": "text", "content": word}]} for word in ("one", "two")],
    ),
    "tokens": ({"prompt": [1, 2]}, []),
    "half a letter": ({"prompt": "a\ud800"}, [{"role": "user", "parts": [{"type": "text", "content": "a?"}]}]),
    "no request": (None, []),
    "a list": ([1], []),
    "nonsense": ({"messages": [1, {"role": 7, "content": 3}], "prompt": {}}, [{"role": "7", "parts": []}]),
}  # fmt: skip


@pytest.mark.parametrize("case", PROMPTS)
def test_a_prompt_is_stored_in_the_fields_of_the_convention_and_redacted(case: str) -> None:
    body, messages = PROMPTS[case]
    assert stored(body)["gen_ai.input.messages"] == messages


def test_a_stream_is_read_the_same_however_it_is_cut() -> None:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant"}, {"reasoning_content": "é hm"}, {"content": "mail 世 ada@mail"}, {"content": ".example.org"},
        {"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "mail", "arguments": '{"to": "a'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'da@mail.example.org"}'}}]},
    ]  # fmt: skip
    chunks: list[dict[str, Any]] = [
        {"model": "m of ada@mail.example.org", "choices": [{"index": 0, "delta": delta}]} for delta in deltas
    ]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}]
    chunks += [{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}]
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}" for chunk in chunks]
    data = "\r\n\r\n".join([": a comment", "event: x", *lines, "data: not JSON", "data: [DONE]", ""]).encode()
    found = []
    for size in (1, 2, 3, 7, 61, len(data)):
        answer = ParsedAnswer()
        events = Events(answer)
        spoke = sum(events.feed(data[at : at + size]) for at in range(0, len(data), size))
        assert (answer.complete, spoke, answer.pieces) == (True, 5, 5)
        found.append(stored(answer=answer))
    assert all(each == found[0] for each in found)
    (message,) = found[0]["gen_ai.output.messages"]
    assert message == {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "é hm"},
            {"type": "text", "content": "mail 世 [email]"},
            {"type": "tool_call", "id": "c1", "name": "mail", "arguments": '{"to": "[email]"}'},
        ],
        "finish_reason": "tool_calls",
    }
    assert (found[0]["gen_ai.usage.input_tokens"], found[0]["gen_ai.usage.output_tokens"]) == (5, 9)
    assert (found[0]["gen_ai.response.model"], found[0]["lockstep.redactions"]) == ("m of [email]", {"email": 3})


# What a server sends of an answer of 12 tokens, and the tokens of its thought that are stored.
THOUGHTS: dict[str, tuple[list[dict[str, Any]], int | None]] = {
    "vLLM, whole: by characters": (
        [{"choices": [{"message": {"reasoning": "a" * 30, "content": "b" * 10}}], "usage": {"completion_tokens": 12}}], 9,
    ),
    "llama.cpp, whole: by characters": (
        [{"choices": [{"message": {"reasoning_content": "a" * 10, "content": "b" * 10}}], "usage": {"completion_tokens": 12}}],
        6,
    ),
    "whole, without an answer: all of them": (
        [{"choices": [{"message": {"reasoning": "a", "content": None}, "finish_reason": "length"}],
          "usage": {"completion_tokens": 12}}], 12,
    ),
    "counted by the server": (
        [{"choices": [{"message": {"reasoning": "a", "content": "b"}}],
          "usage": {"completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 10}}}], 10,
    ),
    "counted by the server and not shown": (
        [{"choices": [{"message": {"content": "b"}}],
          "usage": {"completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 10}}}], 10,
    ),
    "streamed: by events": (
        [*({"choices": [{"delta": {"reasoning_content": text}}]} for text in ("a long thought", "b", "c")),
         {"choices": [{"delta": {"content": "d"}}]}, {"choices": [], "usage": {"completion_tokens": 12}}], 9,
    ),
    "streamed, without usage: the events": (
        [*({"choices": [{"delta": {"reasoning": text}}]} for text in "abc"), {"choices": [{"delta": {"content": "d"}}]}], 3,
    ),
    "whole, without usage: unknown": ([{"choices": [{"message": {"reasoning": "a", "content": "b"}}]}], None),
    "no thought": ([{"choices": [{"message": {"content": "b"}}], "usage": {"completion_tokens": 12}}], None),
}  # fmt: skip


@pytest.mark.parametrize("case", THOUGHTS)
def test_tokens_of_thoughts_are_stored_as_a_part_of_the_answers(case: str) -> None:
    events, tokens = THOUGHTS[case]
    answer = ParsedAnswer()
    Events(answer).feed("".join(f"data: {json.dumps(event)}\n\n" for event in events).encode())
    assert stored(answer=answer).get("gen_ai.usage.reasoning.output_tokens") == tokens
    if len(events) == 1:
        assert whole(json.dumps(events[0]).encode()).thought_tokens == tokens


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"3", b'{"choices": 3}', b'{"choices": [3, {"index": -1}, {"index": "x", "text": "a"}]}',
     b'{"usage": {"prompt_tokens": "many"}}', b'{"choices": [{"message": {"content": 3}}]}', b"[" * 100_000],
)  # fmt: skip
def test_an_answer_that_is_none_is_no_error(data: bytes) -> None:
    assert whole(data).text == ""
    assert Events(ParsedAnswer()).feed(b"data: " + data + b"\n\n") in (0, 1)
    assert stored(answer=whole(data))["gen_ai.usage.input_tokens"] is None


def test_an_answer_that_broke_off_says_so() -> None:
    answer = ParsedAnswer()
    Events(answer).feed(b'data: {"choices": [{"index": 0, "delta": {"content": "az"}}]}\n\n')
    found = stored(answer=answer, error="upstream_error")
    assert (found["gen_ai.output.messages"][0]["finish_reason"], found["error.type"]) == ("error", "upstream_error")


def test_a_user_has_one_key_in_a_release_which_says_nothing_without_the_secret() -> None:
    def key(body: Any, secret: bytes | None = b"s" * 32, **fields: Any) -> str | None:
        return row(exchange(body, **fields), "staging", 0.5, secret).user_key

    ada = key({"user": "ada@mail.example.org"}, release="1" * 12)
    assert ada is not None
    assert ada == key({"user": "ada@mail.example.org", "messages": []}, release="1" * 12)
    assert ada == key({"safety_identifier": "ada@mail.example.org", "user": "x"}, release="1" * 12)
    assert ada == key({}, user="ada@mail.example.org", release="1" * 12)  # of a header
    others = [
        key({"user": "bob"}, release="1" * 12), key({"user": "ada@mail.example.org"}, release="2" * 12),
        key({"user": "ada@mail.example.org"}, b"t" * 32, release="1" * 12),
    ]  # fmt: skip
    assert len({ada, *others}) == 4
    assert key({"user": "ada"}, None) is key({"user": 5}) is key({}) is key([]) is key(None) is None
    assert "lockstep.user_key" not in stored({"user": "ada"})  # as rows were before there were keys


def test_the_sample_is_the_stated_share_and_a_larger_one_holds_a_smaller_one() -> None:
    ids = [f"r{number}" for number in range(20_000)]
    some = {each for each in ids if sampled(each, 0.1)}
    assert 1800 < len(some) < 2200
    assert (
        some < {each for each in ids if sampled(each, 0.3)} < {each for each in ids if sampled(each, 1.0)} == set(ids)
    )


ANSWERS = [
    ("I'm sorry, but I can't help with that.", True, False),
    ("I cannot assist with this request", True, False),
    ("As an AI, I have no opinion", True, False),
    ("Unfortunately, I am unable to do so", True, False),
    ("Sorry for the delay: az group create", False, False),
    ("I cannot recommend it enough", False, False),
    ("az vm create --name can't-help", False, False),
    ("", False, False),
    ("the same four words " * 30, False, True),
    (" ".join(f"word{number}" for number in range(200)), False, False),
    ("the same words the same words", False, False),
]


@pytest.mark.parametrize(("answer", "refusal", "repetitive"), ANSWERS)
def test_refusals_and_repetition_are_seen_in_an_answer(answer: str, refusal: bool, repetitive: bool) -> None:
    assert (signals.is_refusal(answer), signals.is_repetitive(answer)) == (refusal, repetitive)


class Counted:
    """A store and what it counted."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.by_release: Counter[tuple[str, str | None]] = Counter()
        self.said: list[str] = []
        self.folder = folder
        self.store = CaptureWriter(folder, "staging", 1.0, self._count, self.said.append, url)

    def _count(self, name: CounterName, number: int, release: str | None) -> None:
        self.counts[name] += number
        self.by_release[name, release] += number

    @property
    def dropped(self) -> int:
        return self.counts["captures_dropped"]

    @property
    def kept(self) -> int:
        return self.counts["captures"]

    @property
    def large(self) -> int:
        return self.counts["captures_too_large"]

    def rows(self, folder: Path | None = None) -> int:
        paths = list((folder or self.folder).rglob(f"*{captures.CLOSED}"))
        return sum(len(list(captures.parse(path.read_bytes(), path.name))) for path in paths)


def test_what_does_not_fit_in_the_queue_is_dropped_and_counted_and_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_QUEUED", 100)
    found = Counted(tmp_path)
    for _ in range(50):  # it has not started: nothing takes them
        found.store.offer(exchange([1] * 3))  # 9 bytes
    assert found.dropped == 39
    cut = ParsedAnswer(cut=True)
    found.store.offer(exchange(answer=cut))
    found.store.start()
    found.store.stop(20)
    assert (found.kept, found.dropped, found.large, found.rows()) == (11, 39, 1, 11)
    found.store.offer(exchange())
    assert found.dropped == 40


def test_a_row_that_cannot_be_made_is_dropped_and_the_next_ones_are_written(tmp_path: Path) -> None:
    found = Counted(tmp_path)
    found.store.start()
    found.store.offer(exchange(status=7))
    found.store.offer(exchange({"prompt": "fine"}))
    found.store.stop(20)
    assert (found.kept, found.dropped, found.rows()) == (1, 1, 1)
    assert found.said == [
        "captures: a request could not be stored: ValidationError: rows are dropped, answers are not touched"
    ]


def test_what_is_stored_or_not_counts_for_the_release_that_was_asked(tmp_path: Path) -> None:
    """Of several adapters on one server, the latest request may be for another one."""
    found = Counted(tmp_path)
    for release in ("a" * 12, "b" * 12, "b" * 12):
        for asked in (exchange(), exchange(status=7), exchange(answer=ParsedAnswer(cut=True))):
            asked.release = release
            found.store.offer(asked)
    found.store.start()
    found.store.stop(20)
    names = ("captures", "captures_dropped", "captures_too_large")
    assert found.by_release == {
        (name, release * 12): number for name in names for release, number in (("a", 1), ("b", 2))
    }


def test_a_file_ends_with_its_hour_or_at_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hours = iter(["2026-11-26T16"] * 3 + ["2026-11-26T17"] * 99)
    monkeypatch.setattr(store, "_hour", lambda: next(hours))
    monkeypatch.setattr(store, "MOST_FILE", 1)
    files = store._Files(tmp_path, "staging")
    for _ in range(3):
        files.write([b"{}\n"])
    files.close_if_over(always=True)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl"))
    assert [name.partition("-26/")[2][:2] for name in names] == ["16", "16", "17"]
    assert all(
        name.startswith("staging/2026-11-26/") and captures.may_hold(name, NOW.replace(hour=16), NOW.replace(hour=18))
        for name in names
    )


@pytest.mark.slow
def test_files_are_moved_once_they_are_complete_and_stay_while_the_store_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_RETRY", 0.1)
    there = tmp_path / "there"
    there.write_text("a file where the folder should be")
    found = Counted(tmp_path / "here", f"file://{there}")
    found.store.start()
    found.store.offer(exchange())
    until = time.monotonic() + 20
    while not found.kept:
        assert time.monotonic() < until
    found.store._files.close_if_over(always=True)
    while not found.said:
        assert time.monotonic() < until
    assert "cannot be moved" in found.said[0]
    assert found.rows() == 1
    there.unlink()
    while list(found.folder.rglob("*.jsonl")):
        assert time.monotonic() < until
    found.store.offer(exchange())
    found.store.stop(20)
    assert (found.rows(there), found.rows(), found.dropped, len(found.said)) == (2, 0, 0, 1)
    shutil.rmtree(there)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["aiohttp", "prometheus_client"])
def test_a_package_that_is_missing_is_named_with_the_extra_that_has_it(package: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; from release.cli import main; main(['gateway', 'http://x'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    said = f"lockstep: the package {package} is not installed; pip install -c constraints.txt -e '.[gateway]'"
    assert (done.returncode, done.stderr.strip()) == (9, said)
