"""Probe: what the merged model answers to a few prompts, token by token, so that a server can be held to it.

In:  models/merged (hashed: the report is about that digest), models/base, data/splits/valid.jsonl,
     params ``serve.probes``, ``serve.dtype``.
Out: data/probes.json: for each prompt the ids of the templated chat, the greedy tokens with their log-probabilities
     and the second best of each, and what the untuned base answers to the same. And long continuations of plain texts
     that repeat themselves, since answers may be too short to show that a server penalises repetition.
Run: python -m stages.probe

The machine that builds and verifies an image then needs neither torch nor the base.
"""

import gc
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from checks import digest, files, layout
from checks.errors import EvaluationRefused
from checks.params import Params
from checks.rows import Row
from checks.serving import Continuation, Probe, ProbeReport, ProbeToken
from stages import entry, progress
from stages.inference import answers, prompts

_VALID = layout.SPLITS / "valid.jsonl"
_TEXTS, _TIMES, _CHARACTERS = 4, 3, 80  # plain texts; how often each holds its line, of at most so many characters
_LONG = 48  # tokens of a continuation


def probe(params: Params, root: Path) -> str:
    """Ask the merged model and the base, and write the report.

    Raises EvidenceRefused when a model or the split is missing, EvaluationRefused when a model does not load or a
    prompt is unfit.
    """
    settings = params.serve
    merged, base = (_hashed(root, folder) for folder in (layout.MERGED, layout.BASE))
    rows = files.read_jsonl(root / _VALID, Row)[: settings.probes.rows]
    if not rows:
        raise EvaluationRefused(f"{_VALID}: has no rows", "run `dvc repro prepare`")
    room = settings.max_input_tokens
    limit = settings.probes.max_new_tokens
    ours, continuations = _asked(root / layout.MERGED, settings.dtype, rows, limit, room, str(layout.MERGED))
    theirs, _ = _asked(root / layout.BASE, settings.dtype, rows, limit, room, str(layout.BASE), texts=0)
    report = ProbeReport(
        merged=merged,
        base=base,
        valid=digest.of_file(root / _VALID).sha256,
        max_new_tokens=settings.probes.max_new_tokens,
        precision=settings.dtype,
        device=answers.device(),
        probes=tuple(
            Probe(
                id=row.id,
                messages=row.messages,
                prompt_tokens=answer.prompt_tokens,
                tokens=answer.tokens,
                ended=answer.ended,
                base_text=other.text,
            )
            for row, answer, other in zip(rows, ours, theirs, strict=True)
        ),
        continuations=continuations,
    )
    files.write_json(root / layout.PROBES, report)
    differ = sum(one.text != one.base_text for one in report.probes)
    tokens = sum(len(one.tokens) for one in report.probes)
    long = f"{len(continuations)} long texts, {sum(len(one.tokens) for one in continuations)} tokens"
    return f"{len(rows)} prompts, {tokens} tokens; the base answers {differ} of them otherwise; {long}"


def _hashed(root: Path, folder: Path) -> str:
    with progress.of_bytes(f"hash {folder}") as bar:
        return digest.of_tree(root / folder, bar.update).digest


def _asked(
    folder: Path, dtype: str, rows: Sequence[Row], max_new_tokens: int, room: int, label: str, texts: int = _TEXTS
) -> tuple[list[Probe], tuple[Continuation, ...]]:
    """One model's answers, as probes without a base, and its continuations of ``texts`` plain texts."""
    from stages.inference import generate, token_by_token

    model, tokenizer = generate.load(folder, dtype)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = room if positions is None else min(room, positions - _LONG)
    if positions is not None:
        room = min(room, positions - max_new_tokens)
    asked = prompts.tokens(tokenizer, [row.messages for row in rows], rows, room, _VALID)
    ends = generate.end_tokens(model, tokenizer)

    def answer(ids: Sequence[int], limit: int) -> tuple[ProbeToken, ...]:
        steps = token_by_token.answer(model, ids, ends, limit)
        pieces = token_by_token.pieces(tokenizer, [step.id for step in steps])
        return tuple(ProbeToken(text=text, **step._asdict()) for step, text in zip(steps, pieces, strict=True))

    found = []
    for row, ids in zip(rows, tqdm(asked, desc=label, unit="prompt", disable=None), strict=True):
        tokens = answer(ids, max_new_tokens)
        found.append(
            Probe(
                id=row.id,
                messages=row.messages,
                prompt_tokens=tuple(ids),
                tokens=tokens,
                ended=tokens[-1].id in ends,
                base_text="",
            )
        )
    long = []
    for row in rows if texts else ():
        prompt = _repeated(row.prompt)
        ids = tokenizer(prompt).input_ids
        if len(ids) > longest:
            continue
        tokens = answer(ids, _LONG)
        if len(tokens) == _LONG:  # one that the model ends early shows too little
            long.append(Continuation(id=row.id, prompt=prompt, tokens=tokens, ended=False))
        if len(long) == texts:
            break
    del model
    gc.collect()  # the next model loads into this one's memory
    return found, tuple(long)


def _repeated(text: str) -> str:
    """A plain text that a model goes on repeating: a line of ``text``, several times."""
    return f"{' '.join(text.split())[:_CHARACTERS]}\n" * _TIMES


if __name__ == "__main__":
    entry.run("probe", probe)
