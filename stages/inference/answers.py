"""One model's answers to rows, and a cache of them by the digest of everything that decides them.

In:  a model directory and its content digest, rows with what they are asked, params ``evaluate``.
Out: texts, seconds and speed; a file of them below ``.lockstep/answers``, which is private to this machine.

The key names the model (tokenizer and chat template are part of it), every conversation in order, the generation
settings with the engine, the device with its threads, the versions of the packages that render, tokenize and compute,
and this code. Where one differs, the key differs, and the model answers. An entry that cannot be read, is damaged or is
of another key counts for nothing. It is no evidence: who can write in that folder can write the predictions too.
While transformers answers, each batch is kept too (``kept_batches``).
"""

import gc
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field
from tqdm import tqdm

from checks.config.pipeline_params import Evaluate
from checks.formats import thinking
from checks.formats.decoding import Decoding, draws
from checks.formats.engines import Engine, LlamaCpp, Vllm
from checks.formats.report import Count
from checks.process.errors import EvidenceRefused
from checks.records.record import Digest
from checks.records.rows import Message, Record, Row, Thought
from checks.storage import digest, files, layout
from stages.inference import llamacpp, prompts, vllm, vllm_process
from stages.inference.kept_batches import KeptBatches

_STAGES = Path(__file__).parents[1]
_TEST = layout.SPLITS / "test.jsonl"
# The last two packages come with extras.
_PACKAGES = ("torch", "transformers", "tokenizers", "jinja2", "compressed-tensors", "llguidance")
CODE = (
    "cpu_arithmetic.py", "inference/answers.py", "inference/batches.py", "inference/generate.py",
    "inference/grammar.py", "inference/kept_batches.py", "inference/llamacpp.py", "inference/llamacpp_worker.py",
    "inference/prompts.py", "inference/sampling.py", "inference/shipped_adapter.py", "inference/unpacking.py",
    "inference/vllm.py", "inference/vllm_process.py", "inference/vllm_worker.py", "threads.py", "workers.py",
)  # fmt: skip

NotNegative = Annotated[float, Field(ge=0)]


class Answered(NamedTuple):
    """One model's answers in the order of the rows, the seconds each took, and answers per second.

    Where nothing was generated, there are no seconds and no speed. An engine gives a speed and no seconds. ``further``:
    the answers of each row's second and later draws; empty: each row was answered once. ``thoughts``: of each row's
    draws, once ``thoughts.divided`` took them out of the texts.
    """

    texts: list[str]
    seconds: list[float]
    speed: float | None
    further: tuple[tuple[str, ...], ...] = ()
    thoughts: tuple[tuple[Thought, ...], ...] = ()

    @property
    def draws(self) -> list[tuple[str, ...]]:
        """Return all answers to each row."""
        further = self.further or [()] * len(self.texts)
        return [(first, *rest) for first, rest in zip(self.texts, further, strict=True)]


# A model that can be asked: settings, rows, their conversations, a label, and what names the rows in a refusal.
Loaded = Callable[[Evaluate, Sequence[Row], Sequence[Sequence[Message]], str, Path], Answered]


class Key(Record):
    """Everything that decides a model's answers; ``asked`` is the digest of ids and messages, in order."""

    model: Digest
    asked: Digest
    rows: Count
    max_new_tokens: int
    batch_tokens: int
    stable_batches: bool
    precision: str
    engine: Engine | None
    decoding: Decoding | None
    json_schema: str | None
    device: str
    threads: Count
    versions: dict[str, str]
    code: Digest

    @property
    def path(self) -> Path:
        """Return the entry's file, relative to the repository's root."""
        return layout.ANSWERS / f"{digest.of_json(self.model_dump()).removeprefix('sha256:')}.json"

    @property
    def of_batches(self) -> str:
        """Return the digest of what decides the answers of a batch, beside its prompts."""
        return digest.of_json(
            self.model_dump(exclude={"asked", "rows", "batch_tokens", "stable_batches"})
        )


class _Entry(Record):
    """One file of the cache; ``content`` is the digest of all its other fields."""

    content: Digest
    key: Key
    texts: list[str]
    seconds: list[NotNegative]
    speed: NotNegative
    further: tuple[tuple[str, ...], ...]


def ask(
    root: Path,
    settings: Evaluate,
    folder: Path,
    model: str,
    rows: Sequence[Row],
    conversations: Sequence[Sequence[Message]],
    label: str,
    rows_name: Path = _TEST,
) -> Answered:
    """Answer ``conversations``, one for each of ``rows``, or return earlier answers if they still hold.

    ``folder``: the model's directory. ``model``: its digest, which the caller has just taken. ``label`` names the
    model on the progress bar, ``rows_name`` the rows in a refusal. Answers of before come with the latencies and the
    speed of then.

    Raises EvaluationRefused when the model does not load, or cannot be asked a row.
    """
    settings = of_folder(settings, folder)
    key = key_of(root, settings, model, rows, conversations)
    if (known := kept(root, key)) is not None:
        tqdm.write(f"{label}: answered before, {len(rows)} rows from {key.path}", file=sys.stderr)
        return known
    model_here = loaded(root, settings, folder, kept=KeptBatches(root, key.of_batches))
    model_answers = model_here(settings, rows, conversations, label, rows_name)
    del model_here
    gc.collect()  # the next model loads into this one's memory
    keep(root, key, model_answers)
    return model_answers


def of_folder(settings: Evaluate, folder: Path) -> Evaluate:
    """The settings for the model in ``folder``: llama.cpp answers only for one that has a GGUF file."""
    if isinstance(settings.engine, LlamaCpp) and not (folder / layout.GGUF).exists():
        return settings.model_copy(update={"engine": None})
    return settings


def known(
    root: Path,
    settings: Evaluate,
    model: str,
    rows: Sequence[Row],
    conversations: Sequence[Sequence[Message]],
) -> Answered | None:
    """Return earlier answers, as ``ask`` would, without the model's directory; None if the model must answer."""
    return kept(root, key_of(root, settings, model, rows, conversations))


def loaded(
    root: Path, settings: Evaluate, folder: Path, log: bool = True, kept: KeptBatches | None = None
) -> Loaded:
    """Return the model in ``folder``, ready to be asked past the cache of whole splits, and without ``kept`` past all.

    ``log``: whether a file may keep what an engine prints. ``kept``: answers of batches, which no engine makes.

    Raises EvaluationRefused when it does not load, MachineRefused when the engine is not there.
    """
    engine = of_folder(settings, folder).engine
    if isinstance(engine, Vllm):
        vllm_process.about(root, engine)
    elif engine is not None:
        llamacpp.hold_installed(root, engine)
    if engine is not None:
        return partial(_by_engine, root, folder, log)
    from stages.inference import generate

    return partial(answer, *generate.load(folder, settings.precision), kept=kept)


def _by_engine(
    root: Path,
    folder: Path,
    log: bool,
    settings: Evaluate,
    rows: Sequence[Row],
    conversations: Sequence[Sequence[Message]],
    label: str,
    rows_name: Path = _TEST,
) -> Answered:
    asked = (settings, folder, rows, conversations, label, rows_name, log)
    if isinstance(settings.engine, LlamaCpp):
        texts, speed = llamacpp.answer(root, settings.engine, *asked)
    else:
        assert settings.engine is not None
        texts, speed = vllm.answer(root, settings.engine, *asked)
    return _by_row(texts, len(rows), [], speed)


def _by_row(texts: list[str], rows: int, seconds: list[float], speed: float) -> Answered:
    """Return the answers to ``rows`` rows; ``texts`` has the first draws of all rows, then the second ones."""
    first, *others = (texts[start : start + rows] for start in range(0, len(texts), rows))
    return Answered(first, seconds, round(speed, 3), tuple(zip(*others, strict=True)))


def answer(
    model: Any,
    tokenizer: Any,
    settings: Evaluate,
    rows: Sequence[Row],
    conversations: Sequence[Sequence[Message]],
    label: str,
    rows_name: Path = _TEST,
    kept: KeptBatches | None = None,
) -> Answered:
    """Return answers of a model loaded by transformers. Raises EvaluationRefused when it cannot be asked a row.

    The speed counts the time that ``kept`` batches took then.
    """
    from stages.inference import generate
    from stages.inference.grammar import Grammar

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = None if positions is None else positions - settings.max_new_tokens
    asked = prompts.tokens(tokenizer, conversations, rows, room, rows_name)
    started = time.perf_counter()
    ends, decoding = generate.end_tokens(model, tokenizer), settings.decoding
    times, schema = draws(decoding), settings.json_schema
    generated = generate.generate(
        model, asked * times, ends, settings.max_new_tokens, settings.batch_tokens, label,
        stable=settings.stable_batches, kept=kept, decoding=decoding,
        streams=[decoding.stream(row.id, draw) for draw in range(times) for row in rows] if decoding else (),
        grammar=None if schema is None else Grammar(tokenizer, schema, ends),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if kept is not None and kept.rows:
        tqdm.write(
            f"{label}: {kept.rows} of {len(generated) if decoding else len(set(map(tuple, asked)))} prompts answered "
            "before",
            file=sys.stderr,
        )
        seconds += kept.seconds / generate.lanes(model.device.type)
    speed = len(generated) / seconds
    texts = [
        tokenizer.decode(answer.tokens, skip_special_tokens=True).strip() for answer in generated
    ]
    return _by_row(texts, len(rows), [answer.seconds for answer in generated], speed)


def key_of(
    root: Path,
    settings: Evaluate,
    model: str,
    rows: Sequence[Row],
    conversations: Sequence[Sequence[Message]],
) -> Key:
    """Return the key of a model's answers on this machine, with this code. Raises MachineRefused without the engine."""
    import torch

    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    if isinstance(settings.engine, Vllm):
        about = vllm_process.about(root, settings.engine)
        versions |= {"vllm": about.vllm, "vllm's torch": about.torch}
    return Key(
        model=model,
        asked=asked(rows, conversations),
        rows=len(rows),
        max_new_tokens=settings.max_new_tokens,
        batch_tokens=settings.batch_tokens,
        stable_batches=settings.stable_batches,
        precision=settings.precision,
        engine=settings.engine,
        decoding=settings.decoding,
        json_schema=settings.json_schema,
        device=computes(root, settings.engine),
        threads=torch.get_num_threads(),
        versions=versions,
        code=digest.of_json({name: digest.of_file(_STAGES / name).sha256 for name in CODE}),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def asked(rows: Sequence[Row], conversations: Sequence[Sequence[Message]]) -> str:
    """Return the digest of what is asked: each row's id, its messages and its tools, in order."""
    pairs = zip(rows, conversations, strict=True)
    return digest.of_json(
        [
            [
                row.id,
                [message.model_dump() for message in messages],
                *([list(row.tools)] if row.tools else []),
            ]
            for row, messages in pairs
        ]
    )


def prompt_format(folder: Path, settings: Evaluate) -> str:
    """Return the digest of how a model is asked: chat template, length of answers, precision and so on.

    So answers, noise and sweeps of one engine, decoding or JSON Schema, or of stable batches, are not compared
    with those of another. What params.yaml does not name adds nothing.
    """
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(folder, local_files_only=True).chat_template
    engine = {"engine": settings.engine.model_dump(mode="json")} if settings.engine else {}
    stable = {"stable_batches": True} if settings.stable_batches else {}
    decoding = {"decoding": settings.decoding.model_dump(mode="json")} if settings.decoding else {}
    schema = {"json_schema": settings.json_schema} if settings.json_schema is not None else {}
    marked = thinking.of_model(folder)
    thoughts = {"thinking": marked.model_dump(mode="json")} if marked else {}
    return digest.of_json(
        {
            "template": template,
            "max_new_tokens": settings.max_new_tokens,
            "precision": settings.precision,
        }
        | engine
        | stable
        | decoding
        | schema
        | thoughts
    )


def computes(root: Path, engine: Engine | None) -> str:
    """Return what computes the answers of ``engine``. Raises MachineRefused without vLLM."""
    if isinstance(engine, Vllm):
        return vllm_process.about(root, engine).device
    return _processor() if engine else device()


def device() -> str:
    """Return what torch computes on: the GPU's name, or the processor's kind and instructions."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()


def _processor() -> str:
    import torch

    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def kept(root: Path, key: Key) -> Answered | None:
    """Return the answers of ``key`` where they are kept whole; else None."""
    try:
        entry = files.read_json(root / key.path, _Entry)
    except EvidenceRefused:
        return None
    lengths = (key.rows, 0 if key.engine else key.rows * draws(key.decoding))
    if (
        entry.key != key
        or entry.content != _content(entry)
        or (len(entry.texts), len(entry.seconds)) != lengths
    ):
        return None
    return Answered(entry.texts, entry.seconds, entry.speed, entry.further)


def keep(root: Path, key: Key, answered: Answered) -> None:
    """Write the answers of ``key``; where there is no room for them, say so."""
    fields = {"key": key, **answered._asdict()}
    del fields["thoughts"]  # What is kept is all that the model wrote.
    entry = _Entry.model_validate({"content": digest.of_bytes(b""), **fields})
    try:
        files.write_json(root / key.path, entry.model_copy(update={"content": _content(entry)}))
    except OSError as error:  # the answers are there; the next evaluation makes them again
        tqdm.write(f"{key.path}: not kept: {error.strerror or error}", file=sys.stderr)


def _content(entry: _Entry) -> str:
    return digest.of_json(entry.model_dump(exclude={"content"}))
