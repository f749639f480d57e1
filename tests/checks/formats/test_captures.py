"""The rows that the gateway stores: names, times, and files that are still written."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from checks.formats import captures
from checks.process.errors import EvidenceRefused

NOW = datetime(2026, 11, 26, 16, 20, 0, 123456, UTC)
ROW = captures.Capture(
    time=NOW,
    operation="chat",
    model="router",
    input_messages=(captures.InputMessage(role="user", parts=(captures.Part(type="text", content="create a group"),)),),
    output_messages=(
        captures.OutputMessage(
            role="assistant", parts=(captures.Part(type="text", content="az group create"),), finish_reason="stop"
        ),
    ),
    input_tokens=11,
    output_tokens=4,
    status=200,
    request_id="3f1c",
    release="2bf8835691b3",
    environment="production",
    seconds=0.31,
    redactions={"email": 1},
    sampled_share=0.1,
)
LINE = ROW.model_dump_json().encode()


def test_a_row_has_the_names_of_the_convention_and_is_read_as_it_was_written() -> None:
    said = json.loads(LINE)
    assert said["time"] == "2026-11-26T16:20:00.123456Z"
    assert said["gen_ai.output.messages"] == [
        {"role": "assistant", "parts": [{"type": "text", "content": "az group create"}], "finish_reason": "stop"}
    ]
    assert {name for name in said if "." not in name} == {"time"}
    (read,) = captures.parse(LINE + b"\n", "a.jsonl")
    assert (read, read.prompt, read.answer) == (ROW, "create a group", "az group create")


def test_a_time_of_another_zone_is_written_in_utc_and_one_without_a_zone_is_refused() -> None:
    berlin = NOW.astimezone(timezone(timedelta(hours=1)))
    values = dict(ROW)
    assert captures.Capture(**(values | {"time": berlin})).model_dump_json().encode() == LINE
    with pytest.raises(ValueError, match="timezone"):
        captures.Capture(**(values | {"time": NOW.replace(tzinfo=None)}))


@pytest.mark.parametrize(
    ("data", "name", "rows"),
    [
        (b"", "a.jsonl", 0),
        (LINE + b"\n" + LINE + b"\n", "a.jsonl", 2),
        (LINE + b"\n" + LINE[:40], "a.jsonl.open", 1),
        (LINE + b"\n" + LINE[:40], "a.jsonl", "a.jsonl:2: Invalid JSON"),
        (b'{"time": 1}\n', "a.jsonl.open", "a.jsonl.open:1: "),
        (LINE.replace(b"2bf8835691b3", b"latest") + b"\n", "a.jsonl", "a.jsonl:1: lockstep.release"),
    ],
)
def test_only_a_file_that_is_still_written_may_end_in_a_part_of_a_line(data: bytes, name: str, rows: int | str) -> None:
    if isinstance(rows, int):
        assert list(captures.parse(data, name)) == [ROW] * rows
    else:
        with pytest.raises(EvidenceRefused, match=rows):
            list(captures.parse(data, name))


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("production/2026-11-26/15-pod-0.jsonl", False),  # ended before the window began
        ("production/2026-11-26/16-pod-0.jsonl", True),
        ("production/2026-11-26/17-pod-3.jsonl.open", True),  # arrived before 17:30, ended later
        ("production/2026-11-26/18-pod-0.jsonl", True),
        ("production/2026-11-26/19-pod-0.jsonl", False),
        ("production/2026-11-27/16-pod-0.jsonl", False),
        ("production/2026-11-26/16-pod-0.txt", False),
        ("production/notes.jsonl", False),
    ],
)
def test_the_name_of_a_file_says_whether_it_may_hold_rows_of_a_window(name: str, holds: bool) -> None:
    since = NOW.replace(minute=0, second=0, microsecond=0)
    assert captures.may_hold(name, since, since + timedelta(minutes=90)) is holds
