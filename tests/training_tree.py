"""A repository's root from which a tiny model can be trained: base, sealed splits of 24, 6 and 6 rows."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checks import digest, files, layout
from checks.evidence import Seal
from checks.rows import Message, Row
from checks.training import Job, Train

SERVICES = ("queue", "table", "disk", "vault")


def make(root: Path, base: Path) -> Path:
    """Lay it out below ``root``."""
    shutil.copytree(base, root / layout.BASE)
    number = 0
    for name, count in zip(layout.SPLIT_NAMES, (24, 6, 6), strict=True):
        rows = []
        for _ in range(count):
            service = SERVICES[number % len(SERVICES)]
            rows.append(row(number, f"{'show ' * (1 + number % 3)}the {service}", service))
            number += 1
        files.write_jsonl(root / layout.SPLITS / f"{name}.jsonl", rows)
    seal(root)
    return root


def trainer(settings: Train, root: Path, scratch: Path, callbacks: Sequence[Any] = ()) -> Any:
    """The trainer of the method that ``settings`` are of, on the rows of the root's train split."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stages.training import trainer as shared
    from stages.weights import nf4

    rows = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    if settings.quantization:
        model = nf4.load(root / layout.BASE, settings.quantization, settings.precision)[0]
    else:
        model = AutoModelForCausalLM.from_pretrained(root / layout.BASE, dtype=shared.DTYPES[settings.precision])
    tokenizer = AutoTokenizer.from_pretrained(root / layout.BASE)
    made = settings.trainer(
        Job(
            model=model,
            tokenizer=tokenizer,
            rows=rows,
            valid=(),
            settings=shared.settings(settings, len(rows), str(scratch)),
            adapter=shared.lora_config(settings.lora, model),
            callbacks=callbacks,
            stops=frozenset({tokenizer.eos_token_id}),
        )
    )
    if settings.quantization:
        shared.in_float32(made.model)
    return made


def row(number: int, prompt: str, reference: str) -> Row:
    """One row; its id is the number."""
    messages = (Message(role="system", content="name the key"), Message(role="user", content=prompt))
    return Row(id=f"{number:016x}", messages=messages, reference=reference, group=str(number), slice="a", source="x:1")


def seal(root: Path) -> None:
    """Seal the splits as they are."""
    paths = {name: root / layout.SPLITS / f"{name}.jsonl" for name in layout.SPLIT_NAMES}
    files.write_json(root / layout.SEAL, Seal(splits={n: digest.of_file(p).sha256 for n, p in paths.items()}))
