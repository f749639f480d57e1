"""openai: a model behind an endpoint that speaks OpenAI's chat completions, asked about one answer, or about two.

With ``$answer`` in its prompt it says what an answer is worth. With ``$left`` and ``$right`` it says which is better:
the last match of ``value`` in its reply is ``left``, ``right`` or ``tie``.
Its temperature is 0 and its seed is fixed, yet a server may answer otherwise another time: this is witnessed evidence.
Replies are kept below ``.lockstep/judged`` by the digest of all that was asked, so that an unchanged answer is judged
once. That is no evidence: who can write in that folder can write the judgements too.
"""

import math
import os
import string
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from checks.formats.labels import VALUES
from checks.formats.suite_report import Judgement, Scale, SourceClass
from checks.kinds.judge import Asked, JudgeKind
from checks.kinds.suite import Material
from checks.process.errors import EvaluationRefused, EvidenceRefused
from checks.records.rows import Record
from checks.records.sections import Positive, Section
from checks.storage import digest, files, layout

if TYPE_CHECKING:
    import requests

_TIMES = (10, 300)  # seconds to connect, and between two reads
_WAITS = (1, 5, 20)  # seconds before another try, where the server is busy
_SECONDS = 2.0  # The expression may search one reply for so long.
_BUSY = (429, 500, 502, 503, 504)
_BLANKS = {"prompt", "answer", "left", "right", "reference"}
_BYTES = 3  # A token is counted for each three bytes. English has more, so it costs less.
Variable = Annotated[
    str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="name of an environment variable")
]


class _Reply(Record):
    """One reply that is kept; ``content`` is the digest of its other fields."""

    content: str
    asked: str
    text: str


class Cost(Section):
    """The costs of questions. All that were not asked before are counted before the first is asked."""

    input: Annotated[float, Field(ge=0, description="price of a million tokens of questions")]
    output: Annotated[float, Field(ge=0, description="price of a million tokens of replies")]
    at_most: Annotated[
        float, Field(gt=0, description="most that one run may cost, in the prices' currency")
    ]


class OpenAI(JudgeKind):
    """A model behind an endpoint of OpenAI's form, asked about one answer, or about two."""

    kind: Literal["openai"]
    url_from: Annotated[
        Variable, Field(description="environment variable with the address, such as http://HOST/v1")
    ]
    key_from: Annotated[
        Variable | None, Field(description="environment variable with the key; null: none")
    ] = None
    model: Annotated[
        str, Field(pattern=r"^[\w.:@/+-]{1,100}$", description="as the endpoint calls it")
    ]
    prompt: Annotated[
        str,
        Field(
            description="what it is told: $prompt, $reference, and $answer or $left and $right, are the row's texts"
        ),
    ]
    value: Annotated[
        str,
        Field(
            description="regular expression; its one group is the value in the reply, or left, right or tie"
        ),
    ]
    seed: Annotated[int, Field(ge=0)]
    max_tokens: Positive
    cost: Annotated[
        Cost | None, Field(description="prices and the most that a run may cost; null: it is free")
    ] = None

    @property
    def evidence(self) -> SourceClass:
        """A model's word."""
        return "judge"

    @property
    def compares(self) -> bool:
        """Whether its prompt shows two answers."""
        return "left" in string.Template(self.prompt).get_identifiers()

    @field_validator("prompt")
    @classmethod
    def _has_the_answer(cls, prompt: str) -> str:
        template = string.Template(prompt)
        blanks = set(template.get_identifiers()) if template.is_valid() else set()
        if blanks & {"answer", "left", "right"} not in ({"answer"}, {"left", "right"}):
            raise ValueError(
                "prompt: does not hold $answer, or else $left and $right|write where answers go, and $$ for a dollar"
            )
        if unknown := sorted(blanks - _BLANKS):
            raise ValueError(
                f"prompt: ${unknown[0]} is unknown|use {', '.join(f'${b}' for b in sorted(_BLANKS))}"
            )
        return prompt

    @field_validator("value")
    @classmethod
    def _has_one_group(cls, value: str) -> str:
        import regex

        try:
            groups = regex.compile(value).groups
        except regex.error as error:
            raise ValueError(
                f"value: {value!r} is no regular expression ({error})|correct it"
            ) from error
        if groups != 1:
            raise ValueError(f"value: {value!r} has {groups} groups|write one, around the number")
        return value

    def judge(
        self, asked: Sequence[Asked], scale: Scale, material: Material
    ) -> Iterator[Judgement]:
        """Ask about each answer, unless it was asked before."""
        import requests

        start = f"{layout.PARAMS}: suites.{material.name}.judge"
        self._afford(start, material.root, asked)
        prompt_sha = digest.of_bytes(self.prompt.encode())
        with requests.Session() as session:
            for question in asked:
                text = self._reply(session, start, material.root, self._body(question))
                yield Judgement(
                    sample=question.row.id, answer_sha=question.sha, other_sha=question.other_sha,
                    value=self._value(text, scale), judge=f"openai:{self.model}", prompt_sha=prompt_sha, response=text,
                )  # fmt: skip

    def _body(self, asked: Asked) -> dict[str, Any]:
        """The request. What the texts hold is never taken for a blank."""
        texts = {"prompt": asked.row.transcript, "reference": asked.row.reference}
        texts |= (
            {"left": asked.answer, "right": asked.other or ""}
            if self.compares
            else {"answer": asked.answer}
        )
        prompt = string.Template(self.prompt).substitute(texts)
        return {
            "model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "seed": self.seed,
            "max_tokens": self.max_tokens,
        }  # fmt: skip

    def _value(self, text: str, scale: Scale) -> float | None:
        """The last value in a reply; None where there is none on the scale."""
        import regex

        try:
            matched = str(regex.findall(self.value, text, timeout=_SECONDS)[-1])
            value = VALUES[matched.lower()] if self.compares else float(matched)
        except (LookupError, ValueError, TimeoutError):
            return None
        return value if scale.low <= value <= scale.high else None

    def _afford(self, start: str, root: Path, asked: Sequence[Asked]) -> None:
        """Refuse questions that could cost more than they may. Those that were asked before cost nothing."""
        if self.cost is None:
            return
        bodies = {digest.of_json(body): body for body in map(self._body, asked)}
        new = [body for sha, body in bodies.items() if _kept(root, sha) is None]
        tokens = sum(
            math.ceil(len(body["messages"][0]["content"].encode()) / _BYTES) for body in new
        )
        price = (tokens * self.cost.input + len(new) * self.max_tokens * self.cost.output) / 1e6
        if price > self.cost.at_most:
            raise EvaluationRefused(
                f"{start}.cost.at_most: {len(new)} questions of {tokens:,} tokens, with replies of up to "
                f"{self.max_tokens}, could cost {price:,.2f}, and {self.cost.at_most:g} is allowed; none was asked",
                "raise it, lower max_tokens, or name a cheaper model",
            )

    def _reply(
        self, session: "requests.Session", start: str, root: Path, body: dict[str, Any]
    ) -> str:
        asked = digest.of_json(body)
        if (kept := _kept(root, asked)) is not None:
            return kept
        text = self._ask(session, start, body)
        files.write_json(
            _place(root, asked),
            _Reply(content=digest.of_json([asked, text]), asked=asked, text=text),
        )
        return text

    def _ask(self, session: "requests.Session", start: str, body: dict[str, Any]) -> str:
        """The text of one reply. Raises EvaluationRefused; no message holds the address or the key."""
        import requests

        todo = f"start the judge, set {self.url_from}, and run `./lockstep run` again: it goes on where it stopped"
        url = os.environ.get(self.url_from)
        if not url:
            raise EvaluationRefused(f"{start}.url_from: {self.url_from} is not set", todo)
        key = os.environ.get(self.key_from, "") if self.key_from else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        why = ""
        for wait in (*_WAITS, None):
            try:
                reply = session.post(
                    f"{url.rstrip('/')}/chat/completions", json=body, headers=headers, timeout=_TIMES,
                    allow_redirects=False,
                )  # fmt: skip
                if reply.status_code == 200:
                    return str(reply.json()["choices"][0]["message"]["content"] or "")
                why = f"answers {reply.status_code}"
                if reply.status_code not in _BUSY:
                    break
            except (requests.ConnectionError, requests.Timeout) as error:
                why = type(error).__name__
            except (
                requests.RequestException,
                ValueError,
                KeyError,
                IndexError,
                TypeError,
            ) as error:
                raise EvaluationRefused(
                    f"{start}: gives no chat completion ({type(error).__name__})", todo
                ) from error
            if wait is not None:
                time.sleep(wait)
        raise EvaluationRefused(f"{start}: {self.model}: {why}", todo)


def _place(root: Path, asked: str) -> Path:
    return root / layout.JUDGED / f"{asked.removeprefix('sha256:')}.json"


def _kept(root: Path, asked: str) -> str | None:
    """The reply that is kept; None: not asked yet, or damaged."""
    with suppress(EvidenceRefused):
        kept = files.read_json(_place(root, asked), _Reply)
        if (kept.asked, kept.content) == (asked, digest.of_json([asked, kept.text])):
            return kept.text
    return None
