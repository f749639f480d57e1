"""A tiny model that really learnt the rows of a record, its record, and what it answers offline. Needs torch."""

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checks.config.params import Params
from checks.evaluation import scoring
from checks.formats.serving import ProbeReport
from checks.formats.verdict import Verdict
from checks.records.rows import Message, Prediction, Row
from checks.scorers.exact_match import ExactMatch
from checks.storage import digest, files, layout
from stages import cpu_arithmetic
from tests import build_tree, evidence_tree
from tests.conftest import scaled_down

STEPS, WIDE, VALID = 300, 16, 8
NEW_TOKENS = 64  # a stream lasts long enough to be in flight when a busy machine ends the server


Asked = tuple[Sequence[Message], str]  # what is asked, and the answer


def tune(base: Path, folder: Path, rows: Sequence[Asked] | None = None, steps: int = STEPS) -> None:
    """Copy ``base`` to ``folder`` and train it on ``rows`` until it knows them by heart; by default the record's."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    cpu_arithmetic.use()  # A stage that ran before in this process has called it: without it, the order of tests decides.
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = LlamaForCausalLM.from_pretrained(base)
    if rows is None:
        record = [*evidence_tree.rows("valid", VALID), *evidence_tree.rows("test", 40)]
        rows = [(row.messages, row.reference) for row in record]
    texts = [(_prompt(tokenizer, asked), [*tokenizer.encode(said), tokenizer.eos_token_id]) for asked, said in rows]
    longest = max(len(prompt) + len(answer) for prompt, answer in texts)
    ids = torch.tensor([p + a + [tokenizer.pad_token_id] * (longest - len(p) - len(a)) for p, a in texts])
    labels = torch.tensor([[-100] * len(p) + a + [-100] * (longest - len(p) - len(a)) for p, a in texts])
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    order = itertools.cycle(torch.arange(len(rows)).split(WIDE))
    for _, batch in zip(range(steps), order, strict=False):
        loss = model(input_ids=ids[batch], labels=labels[batch]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("model*"))
    model.save_pretrained(folder, max_shard_size="60KB")


def document(**serve: Any) -> dict[str, Any]:
    """params.yaml for it, as plain values."""
    value = scaled_down()
    value["serve"] |= {"dtype": "fp32", "runtime": "transformers"} | serve
    value["serve"]["probes"] |= {"rows": VALID, "max_new_tokens": NEW_TOKENS}
    value["serve"]["verify"] |= {"start_seconds": 180, "drain_seconds": 60, "near_tie": 0.05}
    return value


def record(root: Path, base: Path, merged: Path, value: dict[str, Any]) -> Params:
    """Lay out and commit the record of ``merged`` below ``root``, with its probes and its own predictions."""
    weights = {path.relative_to(merged).as_posix(): path.read_bytes() for path in merged.rglob("*") if path.is_file()}
    params = build_tree.make(root, weights, value)
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    evidence_tree.evaluated(root, params, predictions(merged, test, params))
    verdict = evidence_tree.judged(root, params)
    assert verdict.status == "pass", verdict
    probes(root, base, merged, verdict, params)
    evidence_tree.recorded(root)
    build_tree.commit(root, "probes")
    return params


def predictions(merged: Path, rows: list[Row], params: Params) -> list[Prediction]:
    """What it answers to the rows, offline."""
    from stages import probe as stage

    answers, _ = stage._answers(merged, "fp32", rows, params.evaluate.max_new_tokens, 128, "test", long=0)
    scorer = ExactMatch(kind="exact-match")
    return [
        evidence_tree.predict(row, scoring.score(scorer, answer.text, row.reference) == 1).model_copy(
            update={"prediction": answer.text}
        )
        for row, answer in zip(rows, answers, strict=True)
    ]


def probes(root: Path, base: Path, merged: Path, verdict: Verdict, params: Params) -> None:
    """data/probes.json, as the stage writes it; the record's base is a stand-in for ``base``."""
    from stages import probe as stage

    valid = files.read_jsonl(root / layout.SPLITS / "valid.jsonl", Row)
    (ours, ends), (theirs, _) = (
        stage._answers(folder, "fp32", valid, NEW_TOKENS, 128, "probes") for folder in (merged, base)
    )
    files.write_json(
        root / layout.PROBES,
        ProbeReport(
            merged=verdict.judged[layout.MERGED.as_posix()],
            base=verdict.judged[layout.BASE.as_posix()],
            valid=digest.of_file(root / layout.SPLITS / "valid.jsonl").sha256,
            max_new_tokens=NEW_TOKENS,
            precision="fp32",
            device="cpu",
            probes=tuple(
                o.model_copy(update={"base_text": t.text, "base_unended": t.without_end().text})
                for o, t in zip(ours, theirs, strict=True)
            ),
            ends=tuple(sorted(ends)),
        ),
    )


def _prompt(tokenizer: Any, asked: Sequence[Message]) -> list[int]:
    turns = [message.model_dump() for message in asked]
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False))
