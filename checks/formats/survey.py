"""The questions of `lockstep init` about a data file, and the answers of ``python -m stages.survey``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from checks.records.record import Record
from checks.storage import layout

SURVEY = layout.STATE / "survey.json"
Role = Literal["prompt", "reference", "messages", "system", "slice", "group", "id"]

# Names that data sets give these columns, the commonest first. They decide only what is proposed.
_NAMES: dict[Role, tuple[str, ...]] = {
    "messages": ("messages", "conversation", "conversations", "chat", "turns", "dialog"),
    "prompt": ("prompt", "question", "instruction", "input", "request", "query", "text", "utterance", "sentence"),
    "reference": (
        "reference", "answer", "response", "completion", "output", "label", "target", "intent", "category", "class",
        "team",
    ),
    "system": ("system", "system_prompt", "system_message"),
    "slice": ("slice", "product", "domain", "topic", "language", "service"),
    "group": ("group", "customer", "customer_id", "user", "user_id", "conversation_id", "thread"),
    "id": ("id", "uuid", "row_id"),
}  # fmt: skip


class Column(Record):
    """One column of a file. ``distinct``: different values; of a chat, different last answers.

    ``closed``: so few that they can be labels. ``in_all``: every row has a value.
    """

    name: str
    kind: Literal["text", "chat", "other"]
    distinct: int
    closed: bool
    in_all: bool
    sample: str


class Contents(Record):
    """The rows and columns of a file."""

    rows: int
    columns: tuple[Column, ...]


class Request(Record):
    """How the rows are read and cleaned, and how many test rows are wanted.

    ``prepare``: the section of params.yaml, whose shares the survey sets. ``longest``: tokens that a prompt may have.
    ``base``: address of the base, to be pinned if it is on this machine; None: it has its pin.
    """

    file: str
    prepare: dict[str, Any]
    labels: bool
    test_rows: Annotated[int, Field(ge=1)]
    max_test_share: float
    longest: int
    base: str | None


class Measured(Record):
    """The prepared rows. ``words``: those of the longest prompt. ``personal``: of personal data and secrets, how many
    of each kind; ``personal_rows``: where they are.

    Tokens are estimates from above. ``label_shares``: the smallest and the largest share of a label in a split;
    ``majority``: the share of the commonest answer in the test split. ``test_size``: the test rows, as the gates count
    them where near-duplicates lie in groups (Kish's size).
    """

    sha256: str
    base_sha256: str | None
    rows: int
    dropped: dict[str, int]
    valid: float
    test: float
    split_rows: dict[str, int]
    test_size: int
    distinct: int
    label_shares: tuple[float, float]
    majority: float
    words: int
    prompt_tokens: int
    reference_tokens: int
    personal: dict[str, int]
    personal_rows: tuple[str, ...]


def guess(columns: Sequence[Column]) -> dict[Role, str]:
    """Return the columns that look like each role, by name; else by shape, where only one choice is left."""
    known = {column.name.casefold(): column for column in columns}

    def named(role: Role) -> list[Column]:
        return [known[name] for name in _NAMES[role] if name in known]

    roles: dict[Role, str] = {}
    chats, asked, answers = (
        [column for column in named(role) if column.kind == "chat"]
        for role in ("messages", "prompt", "reference")
    )
    if not chats and asked and answers:  # TRL's prompt and completion
        roles |= {"prompt": asked[0].name, "reference": answers[0].name}
    elif chats := chats or [column for column in columns if column.kind == "chat"]:
        roles["messages"] = chats[0].name
    else:
        roles |= _pair(columns, named("prompt"), named("reference"))
    fits: dict[Role, Callable[[Column], bool]] = {
        "system": lambda column: column.kind == "text",
        "slice": lambda column: column.closed,
        "group": lambda column: column.kind == "text",
        "id": lambda column: column.kind != "chat",
    }
    for role, fit in fits.items():
        taken = set(roles.values())
        if of_role := [
            column
            for column in named(role)
            if column.in_all and column.name not in taken and fit(column)
        ]:
            roles[role] = of_role[0].name
    return roles


def _pair(
    columns: Sequence[Column], prompts: Sequence[Column], references: Sequence[Column]
) -> Mapping[Role, str]:
    prompt = next((column for column in prompts if column.kind == "text"), None)
    reference = next(
        (column for column in references if column.kind == "text" and column is not prompt), None
    )
    others = {name for role in ("system", "group", "id") for name in _NAMES[role]}
    texts = [
        column
        for column in columns
        if column.kind == "text" and column.name.casefold() not in others
    ]
    if len(texts) == 2:  # one of them is known, or the one with more values is the prompt
        prompt = prompt or max(
            (c for c in texts if c is not reference), key=lambda column: column.distinct
        )
        reference = reference or next(column for column in texts if column is not prompt)
    pair: dict[Role, Column | None] = {"prompt": prompt, "reference": reference}
    return {role: column.name for role, column in pair.items() if column is not None}
