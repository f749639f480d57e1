"""Captures of production's traffic, written as the gateway does."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from checks.formats.captures import Capture, InputMessage, OutputMessage, Part


def write(folder: Path, rows: Iterable[Mapping[str, Any]], environment: str = "production") -> None:
    """Replace the captures of an environment.

    A row has time, id, prompt, answer, status and release; and a role, if not user, and a model, if known.
    """
    shutil.rmtree(folder / environment, ignore_errors=True)
    for each in rows:
        said = (_message(OutputMessage, "assistant", each["answer"], finish_reason="stop"),)
        whole = each["status"] < 400
        row = Capture(
            time=each["time"], operation="chat", status=each["status"], request_id=each["id"], release=each["release"],
            input_messages=(_message(InputMessage, each.get("role", "user"), each["prompt"]),), seconds=0.1,
            output_messages=said if whole else (), error=None if whole else str(each["status"]),
            environment=environment, redactions={}, sampled_share=1.0, model=each.get("model"),
        )  # fmt: skip
        path = folder / environment / f"{each['time']:%Y-%m-%d}" / f"{each['time']:%H}-a-1.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(row.model_dump_json().encode() + b"\n")


def _message(kind: type[Any], role: str, text: str, **more: str) -> Any:
    return kind(role=role, parts=(Part(type="text", content=text),), **more)
