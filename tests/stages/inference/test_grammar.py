"""Answers under a JSON Schema: all that end fit it, and a free answer that fits it is the answer under it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch

from checks.config.pipeline_params import Evaluate
from checks.formats.decoding import Decoding
from checks.process.errors import EvaluationRefused, MachineRefused
from checks.records.rows import Message, Row
from checks.scorers.json_schema import JsonSchema
from stages.inference import answers, generate, grammar
from tests import tuned
from tests.conftest import as_params, scaled_down
from tests.once import once

pytest.importorskip("llguidance", reason="pip install -c constraints.txt -e '.[grammar]'")
pytestmark = pytest.mark.slow

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": ["vm", "network", "storage"]},
        "sure": {"type": "boolean"},
        "rank": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["label", "sure"],
    "additionalProperties": False,
}
TEXT = json.dumps(SCHEMA)
# What the tuned model was taught to answer: JSON that fits, JSON that does not, and no JSON.
TAUGHT = (
    '{"label": "vm", "sure": true}',
    '{"label":"network","sure":false,"rank":7}',
    '{"label": "sql", "sure": true}',
    '{"sure": true, "label": "vm"}',
    "the vm",
)


def fits(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def in_order(text: str) -> bool:
    """Whether the keys come as the schema names them, which JSON Schema does not ask and constrained answers do."""
    return list(json.loads(text)) == [key for key in SCHEMA["properties"] if key in json.loads(text)]


def row(number: int) -> Row:
    return Row(
        id=f"{number:016x}", messages=(Message(role="user", content=f"show the disk {number}"),),
        reference=TAUGHT[number % len(TAUGHT)], group=f"g{number}", slice="all", source=f"file:{number}",
    )  # fmt: skip


ROWS = [row(number) for number in range(20)]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The tiny model once it answers ``ROWS`` as they say, mostly."""
    asked = [(one.messages, one.reference) for one in ROWS]
    return once(tmp_path_factory, "taught-json", lambda folder: tuned.tune(tiny_base, folder, asked, 150))


def ask(folder: Path, **change: Any) -> answers.Answered:
    settings: Evaluate = as_params(scaled_down()).evaluate.model_copy(update={"max_new_tokens": 150} | change)
    model, tokenizer = generate.load(folder, "fp32")
    return answers.answer(model, tokenizer, settings, ROWS, [one.messages for one in ROWS], "candidate")


def test_every_answer_fits_and_a_free_answer_that_fits_is_the_same_under_the_schema(taught: Path) -> None:
    free, bound = ask(taught).texts, ask(taught, json_schema=TEXT).texts
    fitting = [text for text in free if fits(text) and in_order(text)]
    assert 4 <= len(fitting) <= 16, "else this compares nothing"
    assert [text for text, other in zip(bound, free, strict=True) if other in fitting] == fitting
    assert all(fits(text) and in_order(text) for text in bound), bound


def test_a_model_that_writes_no_json_does_so_under_the_schema(tiny_base: Path) -> None:
    assert not any(map(fits, ask(tiny_base).texts))
    assert all(map(fits, ask(tiny_base, json_schema=TEXT).texts))


def test_no_token_is_another_than_the_likeliest_of_those_that_continue(taught: Path) -> None:
    """As transformers generates one row at a time, with a list of the tokens that llguidance lets follow."""
    model, tokenizer = generate.load(taught, "fp32")
    ends = generate.end_tokens(model, tokenizer)
    prompts = [
        tokenizer.apply_chat_template([one.messages[0].model_dump()], add_generation_prompt=True) for one in ROWS
    ]
    ids = [prompt["input_ids"] for prompt in prompts]
    limits = grammar.Grammar(tokenizer, TEXT, ends)
    made = generate.generate(model, ids, ends, 48, 64, grammar=limits)

    for prompt, answer in zip(ids, made, strict=True):

        def following(_: int, sofar: torch.Tensor, start: int = len(prompt)) -> list[int]:
            state = limits.begin()
            assert state.consume_tokens(sofar[start:].tolist())
            kept = grammar.constrained(torch.zeros(1, len(tokenizer)), [state])[0]
            return [token for token, value in enumerate(kept.tolist()) if value == 0]

        alone = model.generate(
            torch.tensor([prompt]), max_new_tokens=48, do_sample=False, prefix_allowed_tokens_fn=following
        )
        assert tuple(token for token in alone[0, len(prompt) :].tolist() if token not in ends) == answer.tokens


def test_draws_fit_and_no_other_row_changes_one(taught: Path) -> None:
    drawn = Decoding(temperature=1.8, top_p=0.95, draws=4, seed=5)
    many, few = (ask(taught, json_schema=TEXT, decoding=drawn, batch_tokens=size).draws for size in (2048, 64))
    assert many == few
    texts = [text for draws in many for text in draws]
    assert all(map(fits, texts)), texts
    assert len(set(texts)) > len(set(ask(taught, json_schema=TEXT).texts)) + 5


def test_an_answer_that_the_limit_cuts_is_wrong(taught: Path) -> None:
    scorer = JsonSchema(kind="json-schema", json_schema=SCHEMA)
    cut = ask(taught, json_schema=TEXT, max_new_tokens=4).texts
    assert {scorer.score(text, "") for text in cut} == {0.0}
    assert all(text.startswith("{") for text in cut)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array", "uniqueItems": True}, r"cannot follow it: Unimplemented keys: \[\"uniqueItems\"\]"),
        ({"type": "string", "format": "nonsense"}, "cannot follow it: Unknown format: nonsense"),
        ({"$ref": "https://elsewhere.invalid/a"}, "cannot follow it: Resource"),
    ],
)
def test_a_schema_that_cannot_be_followed_whole_is_refused(schema: Any, why: str, tiny_base: Path) -> None:
    with pytest.raises(EvaluationRefused, match=why):
        ask(tiny_base, json_schema=json.dumps(schema))


def test_without_the_package_the_refusal_names_the_extra(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "llguidance" else find(name, *more)
    )
    with pytest.raises(MachineRefused, match=r"json_schema needs llguidance, .*pip install .*\[grammar\]"):
        ask(tiny_base, json_schema=TEXT)


def test_logits_beyond_the_tokenizer_s_tokens_are_never_chosen(tiny_base: Path) -> None:
    model, tokenizer = generate.load(tiny_base, "fp32")
    limits = grammar.Grammar(tokenizer, TEXT, generate.end_tokens(model, tokenizer))
    wide = grammar.constrained(torch.zeros(1, len(tokenizer) + 70), [limits.begin()])[0]
    narrow = grammar.constrained(torch.zeros(1, len(tokenizer)), [limits.begin()])[0]
    assert wide.isinf()[len(tokenizer) :].all()
    assert wide[: len(tokenizer)].equal(narrow)
    assert 0 < int((narrow == 0).sum()) < 10


def test_another_schema_and_another_order_of_its_keys_is_another_prompt_format(tiny_base: Path) -> None:
    settings = as_params(scaled_down()).evaluate
    turned = json.dumps(SCHEMA | {"properties": dict(reversed(SCHEMA["properties"].items()))})
    formats = {
        answers.prompt_format(tiny_base, settings.model_copy(update={"json_schema": text}))
        for text in (None, TEXT, turned)
    }
    assert len(formats) == 3
