"""Tools and calls of them: read as OpenAI and TRL write them, rendered by the base's template, learned, and scored."""

import json
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from checks.config.pipeline_params import BasePrompt
from checks.config.sealed import SealedLine, rows_of
from checks.data import drafts
from checks.data.personal_data import PersonalData
from checks.kinds.chat_template import TEMPLATES
from checks.kinds.rule import Rule, all_rules
from checks.process.errors import DataRefused, EvaluationRefused
from checks.records.rows import Message, Row, request
from checks.storage import files, layout
from stages.inference import answers, prompts
from stages.loaders import table
from stages.prepare import prepare
from stages.quality import chat_tokens, preferences
from stages.splitting import Placed
from stages.weights import parity
from tests import training_tree
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

_OF_TRL = Path(str(metadata.distribution("trl").locate_file("trl"))) / "chat_templates"
# As Qwen2.5 has it: tools in the system's turn, calls as JSON between tags, results in a turn of the user.
MARKED = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "<|im_start|>system\n{{ system }}{% for tool in tools or [] %}{{ '\n' }}{{ tool | tojson }}{% endfor %}<|im_end|>\n"
    "{% for m in turns %}{% if m['role'] == 'tool' %}<|im_start|>user\n<tool_response>{{ m['content'] }}</tool_response>"
    "<|im_end|>\n{% elif m['role'] == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}{% if m['content'] or not loop.first %}{{ '\n' }}{% endif %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endgeneration %}{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def _tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": schema}}


def _call(name: str, call_id: str = "", **arguments: Any) -> dict[str, Any]:
    function = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": call_id} | function if call_id else function


LOOK, SHUT = (
    _tool("look", where={"type": "string"}, deep={"type": "boolean"}),
    _tool("shut", number={"type": "integer"}),
)
ASK: dict[str, Any] = {"role": "user", "content": "is the disk full?"}
LOOKS: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [_call("look", "c1", where="disk", deep=True)],
}
SEES: dict[str, Any] = {"role": "tool", "tool_call_id": "c1", "content": "97 %"}
SHUTS: dict[str, Any] = {
    "role": "assistant",
    "content": "I shut it.",
    "tool_calls": [_call("shut", "c2", number=4), _call("look", "c3", where="é")],
}
CHAT: list[dict[str, Any]] = [
    ASK,
    LOOKS,
    SEES,
    {"role": "assistant", "content": "Yes."},
    ASK | {"content": "then shut it"},
    SHUTS,
]
WRITTEN = (
    'I shut it.\n<tool_call>\n{"name": "shut", "arguments": {"number": 4}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {"where": "é"}}\n</tool_call>'
)


def _with_text_arguments(chat: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same chat as OpenAI's API writes it: arguments as text, and no key that is null in another turn alone."""
    found = json.loads(json.dumps(chat))
    for call in (call for turn in found for call in turn.get("tool_calls", ())):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return found


def _loaded(folder: Path, rows: list[Any], kind: str = "jsonl", **columns: Any) -> list[drafts.Draft]:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    else:
        (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    loader = {"kind": "table", "files": "*", "columns": columns or {"messages": "messages", "tools": "tools"}}
    return table.Table.model_validate(loader).load(folder)


def _row(number: int, chat: Sequence[dict[str, Any]] = CHAT, tools: Sequence[Any] = (LOOK, SHUT)) -> Row:
    """A row of the chat as the loader makes it."""
    *turns, answer = [
        Message.model_validate({key: value or "" for key, value in turn.items()} | {"content": turn["content"] or ""})
        for turn in chat
    ]
    return Row(
        id=f"{number:016x}", messages=tuple(turns), reference=answer.text, group=str(number), slice="a", source="x:1",
        calls=answer.tool_calls, tools=tuple(tools),
    )  # fmt: skip


WHOLE = {"messages": "messages", "tools": "tools"}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "OpenAI's fine-tuning file": (
        {"messages": _with_text_arguments(CHAT), "tools": [LOOK, SHUT], "parallel_tool_calls": False}, WHOLE,
    ),
    "TRL with tools as text": ({"messages": CHAT, "tools": json.dumps([LOOK, SHUT])}, WHOLE),
    "TRL's prompt and completion": (
        {"prompt": CHAT[:-1], "completion": [SHUTS], "functions": [LOOK, SHUT]},
        {"prompt": "prompt", "reference": "completion", "tools": "functions"},
    ),
    "Parquet with texts": ({"messages": _with_text_arguments(CHAT), "tools": json.dumps([LOOK, SHUT])}, WHOLE),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_chats_with_calls_are_read_as_others_write_them(tmp_path: Path, shape: str) -> None:
    row, columns = SHAPES[shape]
    (draft,) = _loaded(tmp_path, [row], "parquet" if "Parquet" in shape else "jsonl", **columns)
    assert draft.full_reference == WRITTEN
    assert [(each.id, each.function.arguments) for each in draft.calls] == [
        ("c2", {"number": 4}),
        ("c3", {"where": "é"}),
    ]
    assert list(draft.tools) == [LOOK, SHUT]
    assert [each.role for each in draft.messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert draft.messages[1].tool_calls[0].function.arguments == {"where": "disk", "deep": True}
    assert request(draft.messages[:3]).splitlines()[2:] == [
        '{"name": "look", "arguments": {"where": "disk", "deep": true}}', "</tool_call>", "97 %",
    ]  # fmt: skip
    made = Placed("0" * 16, "g", draft).row
    again = drafts.draft_of(Row.model_validate_json(made.model_dump_json()))
    assert (again.reference, again.calls, again.tools, again.messages) == (
        "I shut it.",
        draft.calls,
        draft.tools,
        draft.messages,
    )


def test_an_answer_can_follow_the_results_of_calls(tmp_path: Path) -> None:
    two = LOOKS | {"tool_calls": [_call("look", where="a"), _call("look", where="b")]}
    unnamed = [{"role": "tool", "content": text} for text in "12"]  # without ids, in the order of the calls
    chat = [ASK, two, *unnamed, {"role": "assistant", "content": "Both are."}]
    draft, plain = _loaded(tmp_path, [{"messages": chat, "tools": None}, {"messages": CHAT[3:5][::-1], "tools": []}])
    assert ([each.content for each in draft.after], draft.prompt, draft.full_reference) == (
        ["", "1", "2"],
        ASK["content"],
        "Both are.",
    )
    assert (plain.after, plain.tools, plain.full_reference, plain.has_calls) == ((), (), "Yes.", False)


def _faulty(turn: int, **change: Any) -> dict[str, Any]:
    return {"messages": [*CHAT[:turn], CHAT[turn] | change, *CHAT[turn + 1 :]], "tools": [LOOK, SHUT]}


def _called(**function: Any) -> dict[str, Any]:
    return _faulty(
        1,
        tool_calls=[
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"where": "a"}} | function}
        ],
    )


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a result of no call": (_faulty(2, tool_call_id="c9"), "'messages': turn 3: answers 'c9', a call that was not made"),
    "a result of another function": (_faulty(2, name="shut", tool_call_id=None), "turn 3: answers 'shut', a call that was not"),
    "a call without its result": (
        _faulty(1, tool_calls=[*LOOKS["tool_calls"], _call("shut", "c4", number=1)]), "turn 4: comes before the result of 'shut'",
    ),
    "no result at all": ({"messages": [ASK, LOOKS, ASK, SHUTS], "tools": []}, "after calls of tools, their results"),
    "a result without a call": ({"messages": [ASK, CHAT[3], SEES, CHAT[3]], "tools": []}, r"roles \['user', 'assistant', 'tool'"),
    "a chat that ends in a result": ({"messages": CHAT[:3], "tools": []}, r"roles \['user', 'assistant', 'tool'\] are not"),
    "a call that is text": (_faulty(1, tool_calls=["look()"]), "turn 2: 'look\\(\\)' is no call: write"),
    "arguments that are no JSON": (_called(arguments="{where: a}"), "turn 2: arguments: .* is not JSON"),
    "arguments that are a list": (_called(arguments="[1]"), "turn 2: .* is no call: write"),
    "a key of arguments twice": (_called(arguments='{"a": 1, "a": 2}'), "arguments: .* is not JSON: key 'a' is written twice"),
    "a call of the user's": (_faulty(0, tool_calls=LOOKS["tool_calls"]), "a turn has tool_calls beside role and content"),
    "two calls with one id": (_faulty(1, tool_calls=LOOKS["tool_calls"] * 2), "turn 2: two calls have one id"),
    "a call of no tool": (_called(name="peek"), "'tools': calls 'peek', which is none of the row's tools"),
    "an argument that it does not take": (_called(arguments={"where": "a", "at": 1}), "calls 'look' with 'at', which it does not take; "),
    "an argument of Parquet": (_called(arguments={"where": "a", "at": None}), "does not take: in Parquet, write the column as JSON text"),
    "an argument that is lacking": (_called(arguments={"deep": True}), "calls 'look' without 'where', which it requires"),
    "tools that are no list": ({"messages": CHAT, "tools": "look"}, "'tools': tools: 'look' is not JSON"),
    "a tool without its type": ({"messages": CHAT, "tools": [LOOK["function"], SHUT]}, "'tools': .* is no tool: write"),
    "one tool twice": ({"messages": CHAT, "tools": [LOOK, LOOK]}, "'tools': two tools have one name"),
    "a parameter without a schema": ({"messages": CHAT, "tools": [_tool("look", where=None)]}, "'where' has no JSON schema: in Parquet"),
    "a tool with half a character": ({"messages": CHAT, "tools": [LOOK, _tool("s\ud800")]}, "'tools': name: 's.ud800' holds half of a"),
    "a parameter with half a character": ({"messages": CHAT, "tools": [LOOK, _tool("s", **{"\ud800": {}})]}, "tools: .* is not JSON"),
    "a call with half a character": (_called(name="\ud800"), "turn 2: name: '.ud800' holds half of a surrogate pair; "),
    "required parameters that are no names": (
        {"messages": CHAT, "tools": [{"type": "function", "function": {"name": "look", "parameters": {"required": [{}]}}}, SHUT]},
        "'tools': tool 'look': its required parameters are no list of names",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_whose_calls_do_not_fit_is_refused_with_its_place(tmp_path: Path, fault: str) -> None:
    row, message = FAULTS[fault]
    with pytest.raises(DataRefused, match=rf"^rows\.jsonl:2: column .*{message}"):
        _loaded(tmp_path, [{"messages": CHAT, "tools": [LOOK, SHUT]}, row])


def test_calls_whose_tools_no_column_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataRefused, match=r"^rows\.jsonl:1: calls tools, and .* names no column of them: add tools: tools"
    ):
        _loaded(tmp_path, [{"messages": CHAT, "tools": [LOOK, SHUT]}], messages="messages")
    assert _loaded(tmp_path, [{"messages": CHAT}], messages="messages")[0].tools == ()


def test_a_worse_answer_can_call_tools_that_the_row_knows(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"messages": "chosen", "tools": "tools", "extra": {"rejected": "no"}}
    wrong = SHUTS | {"tool_calls": [_call("burn", number="é")]}  # to call what is not there is a fault to learn from
    only = SHUTS | {"content": ""}
    for number, worse in enumerate(([SHUTS], [*CHAT[:-1], wrong], [only])):
        rows = [{"chosen": CHAT, "no": worse, "tools": [LOOK, SHUT]}]
        (draft,) = _loaded(tmp_path / str(number), rows, **columns)
        row = Placed("0" * 16, "g", draft).row
        kept = row.turn(str(row.extra["rejected"])).model_dump()
        assert kept == {
            "role": "assistant",
            "content": worse[-1]["content"],
            "tool_calls": tuple({"type": "function", "function": call["function"]} for call in worse[-1]["tool_calls"]),
        }
    with pytest.raises(
        DataRefused, match="column 'no': its answer calls tools, and the row has none: name their column"
    ):
        _loaded(tmp_path, [{"chosen": [ASK, CHAT[3]], "no": [SHUTS]}], messages="chosen", extra={"rejected": "no"})


@pytest.mark.parametrize(
    "text",
    ["It is full.", "<tool_call>\n{}\n</tool_call>", WRITTEN.replace('": "', '":"'), "</tool_call>", WRITTEN + "\n"],
)
def test_an_answer_in_another_form_than_calls_have_is_text(text: str) -> None:
    assert _row(1).turn(text) == Message(role="assistant", content=text)
    assert _row(1, [ASK, CHAT[3]], []).turn(WRITTEN).content == WRITTEN  # a row without tools


# --- rules ---


def _rule(name: str) -> Rule:
    class Numbers:
        max_prompt_words = 45
        personal_data = PersonalData(detectors=("email",))

    return all_rules(Numbers)[name]


@pytest.mark.parametrize(
    ("turn", "change"),
    [
        (1, {"tool_calls": [_call("look", "c1", where={"list": ["@"]})]}),
        (2, {"content": "@"}),
        (5, {"tool_calls": [_call("shut", "c2", number="@")]}),
    ],
    ids=["of an earlier call", "of a result", "of the last call"],
)
def test_rules_read_and_correct_the_texts_of_calls_and_results(
    tmp_path: Path, turn: int, change: dict[str, Any]
) -> None:
    def loaded(text: str) -> drafts.Draft:
        return _loaded(tmp_path, [json.loads(json.dumps(_faulty(turn, **change)).replace('"@"', json.dumps(text)))])[0]

    address = loaded("me@home.org")
    assert _rule("drop-personal-data").finds(address)
    masked = _rule("mask-personal-data").fix(address)  # type: ignore[misc]
    assert not _rule("drop-personal-data").finds(masked)
    assert "[email]" in f"{request(masked.messages)}{masked.full_reference}"
    assert _rule("strip-control-characters").fix(loaded("a\u200b")) == loaded("a")  # type: ignore[misc]
    assert _rule("drop-personal-data").finds(loaded("a")) is False


def test_rows_differ_by_their_calls_and_tools(tmp_path: Path) -> None:
    other = _faulty(5, tool_calls=[_call("shut", number=5)])
    rows = _loaded(
        tmp_path, [{"messages": CHAT, "tools": tools} for tools in ([LOOK, SHUT], [LOOK, SHUT], [])] + [other]
    )
    assert _rule("drop-duplicates").among(rows).count(True) == 1  # type: ignore[misc]
    assert _rule("drop-conflicting-references").among(rows) == [True, True, False, True]  # type: ignore[misc]
    assert len({each.content for each in rows}) == 3
    silent = _loaded(tmp_path, [{"messages": [ASK, LOOKS], "tools": []}])[0]
    assert not _rule("drop-empty-reference").finds(silent)  # a call without words is an answer


def test_a_method_that_learns_no_calls_refuses_them_in_prepare(tmp_path: Path) -> None:
    document = scaled_down()
    chats = [[ASK | {"content": f"is disk {number} {'full ' * number}?"}, LOOKS] for number in range(12)]
    _loaded(tmp_path / layout.RAW, [{"messages": chat, "tools": [LOOK]} for chat in chats])
    document["prepare"] |= {"loader": {"kind": "table", "files": "*", "columns": WHOLE}, "rules": []}
    prepare(as_params(document), tmp_path)
    kept = files.read_jsonl(tmp_path / layout.SPLITS / "train.jsonl", Row)
    assert {(each.tools[0]["function"]["name"], each.calls[0].function.name) for each in kept} == {("look", "look")}  # type: ignore[index, call-overload]
    document["train"] |= training_tree.METHODS["grpo"]
    with pytest.raises(
        DataRefused,
        match=r"^rows\.jsonl:1: has tools or tool calls, which train\.method 'grpo' does not learn; use sft, dpo or kto",
    ):
        prepare(as_params(document), tmp_path)


def test_a_sealed_row_keeps_its_tools_and_calls() -> None:
    line = SealedLine.model_validate_json(_row(1).model_dump_json())
    (sealed,) = rows_of([line], [0])
    assert (sealed.tools, sealed.calls) == (_row(1).tools, _row(1).calls)
    with pytest.raises(ValueError, match="the reference does not end with these calls"):
        SealedLine.model_validate_json(_row(1).model_copy(update={"reference": "I shut it."}).model_dump_json())


# --- the chat template ---


def _base(folder: Path, base: Path, template: str = QWEN) -> Path:
    shutil.copytree(base, folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(template)
    return folder / "base"


def test_validate_counts_the_tokens_that_training_and_evaluation_see(tmp_path: Path, tiny_base: Path) -> None:
    base = _base(tmp_path, tiny_base)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [_row(1), _row(2, CHAT[:4]), _row(3, [ASK, CHAT[3]], [])]
    asked = prompts.tokens(tokenizer, [row.messages for row in rows], rows, None, Path("test.jsonl"))
    for row, lengths, ids in zip(rows, chat_tokens.counter(base)(rows), asked, strict=True):
        chat = [message.model_dump() for message in row.messages]
        whole = tokenizer.apply_chat_template([*chat, row.answer.model_dump()], tools=row.schemas, tokenize=False)
        assert ids == tokenizer.apply_chat_template(chat, tools=row.schemas, add_generation_prompt=True)["input_ids"]
        assert lengths == (len(ids), len(tokenizer.encode(whole.rstrip(), add_special_tokens=False)) - len(ids))
        assert ("To look." in whole, "97 %" in whole) == (bool(row.tools), len(row.messages) > 2)
        example = parity.encode(tokenizer, row)
        assert (example.ids[: example.start], len(example.ids)) == (ids, sum(lengths))


def test_the_named_template_hermes_tells_tools_and_parallel_calls(tmp_path: Path, tiny_base: Path) -> None:
    row = _row(1, [{"role": "system", "content": "Be brief."}, *CHAT])
    base = _base(tmp_path, tiny_base, TEMPLATES.kinds["hermes"].text)
    assert chat_tokens.counter(base)([row])[0].reference > 20
    with pytest.raises(DataRefused, match="ignores tools"):
        chat_tokens.counter(_base(tmp_path / "other", tiny_base, TEMPLATES.kinds["chatml"].text))([row])


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3_1", "llama3_2"])
def test_calls_in_templates_of_known_models_are_read_again(name: str, tmp_path: Path, tiny_base: Path) -> None:
    one = _row(1, [*CHAT[:5], LOOKS])
    base = _base(tmp_path, tiny_base, (_OF_TRL / f"{name}.jinja").read_text())
    assert all(each > 0 for each in chat_tokens.counter(base)([one])[0])


LACKING = {
    "no tools": (QWEN.replace("tools or []", "[]"), _row(7), "ignores tools: it renders the prompt alike with and without them"),
    "no results": (QWEN.replace("<tool_response>{{ m['content'] }}", ""), _row(7), "leaves out the results of calls"),
    "no earlier calls": (
        QWEN.replace("m['tool_calls'] or []", "((m['tool_calls'] if loop.last else []) or [])"), _row(7), "leaves out calls of earlier",
    ),
    "no calls": (QWEN.replace("m['tool_calls'] or []", "[]"), _row(7, [ASK, LOOKS]), "writes calls in a form that"),
    "other calls": (QWEN.replace('{"name": "', "").replace('", "arguments": ', "("), _row(7), "writes calls in a form that the scorer"),
    "no text beside a call": (
        QWEN.replace("{{ m['content'] }}{% for", "{{ '' if m['tool_calls'] else m['content'] }}{% for"), _row(7, [ASK, SHUTS]),
        "leaves out the text beside a call: 'I shut it.'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", LACKING)
def test_a_template_that_leaves_something_out_is_refused_before_training(
    fault: str, tmp_path: Path, tiny_base: Path
) -> None:
    template, row, message = LACKING[fault]
    with pytest.raises(
        DataRefused, match=rf"row 0+7 \(x:1\): the base's chat template {message}.*; take a base whose template knows"
    ):
        chat_tokens.counter(_base(tmp_path, tiny_base, template))([_row(1, CHAT[3:5][::-1], []), row])


def test_every_answer_and_call_has_a_loss_token_by_token_as_transformers_has_it(
    tmp_path: Path, tiny_base: Path
) -> None:
    parallel = LOOKS | {"tool_calls": [_call("look", where="a"), _call("shut", number=2)]}
    results = [{"role": "tool", "content": text} for text in ("1", "2")]
    rows = [
        _row(1),
        _row(2, [ASK, parallel, *results, CHAT[3]]),
        _row(3, [ASK, SHUTS], [SHUT, LOOK]),
        _row(4, [ASK, CHAT[3]], []),
    ]
    root = training_tree.make(tmp_path / "root", tiny_base)
    (root / layout.BASE / "chat_template.jinja").write_text(QWEN)
    files.write_jsonl(root / layout.SPLITS / "train.jsonl", rows)
    document = scaled_down()
    document["train"] |= {"max_length": 2048}
    trainer = training_tree.trainer(as_params(document).train, root, root / "scratch")
    for row, prepared in zip(rows, trainer.train_dataset, strict=True):
        chat = [*(each.model_dump() for each in row.messages), row.answer.model_dump()]
        whole = trainer.processing_class.apply_chat_template(
            chat, tools=row.schemas, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
        )
        assert prepared["input_ids"] == whole["input_ids"]
        assert [int(label != -100) for label in prepared["labels"]] == whole["assistant_masks"]
        assert all(
            label in (-100, token) for token, label in zip(prepared["input_ids"], prepared["labels"], strict=True)
        )
        learned = trainer.processing_class.decode([label for label in prepared["labels"] if label != -100])
        assert all(each.text in learned for each in (*row.messages, row.answer) if each.role == "assistant")
        assert "97 %" not in learned
        assert "null" not in learned  # what Arrow gives a call of another row's arguments


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preferences_with_calls_are_learned_as_the_template_writes_them(
    method: str, tmp_path: Path, tiny_base: Path
) -> None:
    more: list[dict[str, Any]] = [
        {"rejected": WRITTEN, "completion": WRITTEN, "label": False},
        {"rejected": "No.", "completion": "No."},
    ]
    rows = [
        _row(1, [*CHAT[:5], SHUTS | {"tool_calls": LOOKS["tool_calls"]}]),
        _row(2, CHAT[:4]),
        _row(3, [ASK, CHAT[3]], []),
    ]
    rows = [row.model_copy(update={"extra": {"label": True} | more[row is not rows[0]]}) for row in rows]
    root = training_tree.make(tmp_path / "root", tiny_base)
    (root / layout.BASE / "chat_template.jinja").write_text(QWEN)
    files.write_jsonl(root / layout.SPLITS / "train.jsonl", rows)
    document = scaled_down()
    document["validate"]["preferences"] = training_tree.BOUNDS
    document["train"] |= {"max_length": 2048} | training_tree.METHODS[method]
    trainer = training_tree.trainer(as_params(document).train, root, root / "scratch")

    def ids(row: Row, *turns: Message) -> list[int]:
        chat = [each.model_dump() for each in (*row.messages, *turns)]
        found: list[int] = trainer.processing_class.apply_chat_template(
            chat, tools=row.schemas, add_generation_prompt=not turns, return_dict=False
        )
        return found

    by_prompt = {tuple(each["prompt_ids"]): each for each in trainer.train_dataset}
    for row in rows:
        prepared = by_prompt[tuple(ids(row))]
        worse = row.turn(str(row.extra["rejected"]))
        assert bool(worse.tool_calls) == (row is rows[0])
        answers = {"chosen": row.answer, "rejected": worse} if method == "dpo" else {"completion": worse}
        for name, turn in answers.items():
            assert prepared["prompt_ids"] + prepared[f"{name}_ids"] == ids(row, turn)
        columns = ["rejected"] if method == "dpo" else ["completion", "label"]
        frames = preferences.frames({"train": [row]}, columns, chat_tokens.counter(root / layout.BASE))
        counted = next(frame for name, frame in frames.items() if name != preferences.BIAS)[0]["tokens"]
        assert counted == len(prepared["rejected_ids" if method == "dpo" else "completion_ids"]) - 1  # the line's end


# --- evaluation ---


def test_what_is_asked_depends_on_the_tools() -> None:
    rows = [_row(1), _row(1, tools=[SHUT, LOOK])]
    assert len({answers.asked([row], [row.messages]) for row in rows}) == 2


def test_examples_of_rows_with_other_tools_are_refused() -> None:
    train, test = [_row(1), _row(2)], [_row(3)]
    (asked,) = prompts.for_base(test, train, BasePrompt(labels=False, shots=1))
    assert asked[5].tool_calls == train[0].calls  # the answer of an example
    with pytest.raises(
        EvaluationRefused, match=r"shots: 1 examples, and a prompt has one list of tools, .*; set it to 0"
    ):
        prompts.for_base([*test, _row(4, tools=[SHUT, LOOK])], train, BasePrompt(labels=False, shots=1))


def test_calls_that_no_scorer_reads_are_refused_before_a_model_is_asked() -> None:
    from stages.evaluate import refuse_unread_calls

    document = scaled_down()
    refuse_unread_calls(as_params(document), [_row(1, CHAT[:4])])  # the reference calls nothing
    with pytest.raises(
        EvaluationRefused, match=r"test\.jsonl:2: row 0+1: its reference calls a tool, .*; add kind: tool-call"
    ):
        refuse_unread_calls(as_params(document), [_row(2, CHAT[:4]), _row(1)])
    document["evaluate"]["scorers"] += [{"kind": "tool-call"}]
    refuse_unread_calls(as_params(document), [_row(1)])
