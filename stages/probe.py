"""probe: records the merged model's answers to a few prompts, token by token, for `lockstep verify` to compare with.

In:  models/merged (hashed: the report is about that digest), models/base, data/splits/valid.jsonl,
     params ``serve.probes``, ``serve.dtype``.
Out: data/probes.json: for each prompt the ids of the templated chat, the greedy tokens with their log-probabilities
     and the second best of each, and the untuned base's answers. For the first ones also long answers that no token
     may end, because answers may be too short to show what a server does in long ones, or where the base differs.
Run: python -m stages.probe

So the machine that builds and verifies an image needs neither torch nor the base.
"""

import gc
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from checks.config.params import Params
from checks.formats.serving import Probe, ProbeReport, ProbeToken
from checks.process.errors import EvaluationRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from stages import entry, progress
from stages.inference import answers, prompts

_VALID = layout.SPLITS / "valid.jsonl"
_LONG, _TOKENS = 8, 32  # prompts that are asked for a long answer, and its length


def probe(params: Params, root: Path) -> str:
    """Let the merged model and the base answer the probes, and write the report.

    Raises EvidenceRefused if a model or the split is missing, EvaluationRefused if a model does not load or a prompt is
    invalid.
    """
    settings = params.serve
    merged = progress.tree_digest(root / layout.MERGED, layout.MERGED)
    base = progress.tree_digest(root / layout.BASE, layout.BASE)
    rows = files.read_jsonl(root / _VALID, Row)[: settings.probes.rows]
    if not rows:
        raise EvaluationRefused(f"{_VALID}: has no rows", "run `./lockstep run prepare`")
    room = settings.max_input_tokens
    limit = settings.probes.max_new_tokens
    ours, ends = _answers(
        root / layout.MERGED, settings.dtype, rows, limit, room, str(layout.MERGED)
    )
    theirs, _ = _answers(root / layout.BASE, settings.dtype, rows, limit, room, str(layout.BASE))
    report = ProbeReport(
        merged=merged,
        base=base,
        valid=digest.of_file(root / _VALID).sha256,
        max_new_tokens=settings.probes.max_new_tokens,
        precision=settings.dtype,
        device=answers.device(),
        probes=tuple(
            answer.model_copy(
                update={"base_text": other.text, "base_unended": other.without_end().text}
            )
            for answer, other in zip(ours, theirs, strict=True)
        ),
        ends=tuple(sorted(ends)),
    )
    files.write_json(root / layout.PROBES, report)
    differ = sum(probe.text != probe.base_text for probe in report.probes)
    tokens, long = (
        sum(len(probe.tokens) for probe in ours),
        sum(len(probe.unended) for probe in ours),
    )
    return f"{len(rows)} prompts, {tokens} tokens, {long} of long answers; the base answers {differ} of them otherwise"


def _answers(
    folder: Path,
    dtype: str,
    rows: Sequence[Row],
    max_new_tokens: int,
    room: int,
    label: str,
    long: int = _LONG,
) -> tuple[list[Probe], frozenset[int]]:
    """One model's answers, as probes without a base, ``long`` of them with a long answer; and the ids that end one."""
    from stages.inference import generate, token_by_token

    model, tokenizer = generate.load(folder, dtype)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        room = min(room, positions - max_new_tokens)
    prompt_ids = prompts.tokens(tokenizer, [row.messages for row in rows], rows, room, _VALID)
    ends = generate.end_tokens(model, tokenizer)

    def tokens(steps: Sequence[token_by_token.Step]) -> tuple[ProbeToken, ...]:
        texts = token_by_token.pieces(tokenizer, [step.id for step in steps])
        return tuple(
            ProbeToken(text=text, **step._asdict()) for step, text in zip(steps, texts, strict=True)
        )

    answers = []
    bar = tqdm(prompt_ids, desc=label, unit="prompt", disable=None)
    for number, (row, ids) in enumerate(zip(rows, bar, strict=True)):
        answer = tokens(token_by_token.answer(model, ids, ends, max_new_tokens))
        unended: tuple[ProbeToken, ...] = ()
        if number < long and (positions is None or len(ids) + _TOKENS <= positions):
            unended = tokens(token_by_token.answer(model, ids, frozenset(), _TOKENS, never=ends))
        answers.append(
            Probe(
                id=row.id,
                messages=row.messages,
                prompt_tokens=tuple(ids),
                tokens=answer,
                ended=answer[-1].id in ends,
                base_text="",
                unended=unended,
                tools=row.tools,
            )
        )
    del model
    gc.collect()  # the next model loads into this one's memory
    return answers, ends


if __name__ == "__main__":
    entry.run("probe", probe)
