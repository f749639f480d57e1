"""The sections of params.yaml that decide rows, weights and answers: base, prepare, validate, merge and evaluate."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from checks.config.release_params import TrainBudget as TrainBudget
from checks.data import detectors
from checks.data.personal_data import PersonalData
from checks.evaluation.baselines import Baseline
from checks.evaluation.encoder import Vectors
from checks.formats.decoding import Decoding
from checks.formats.engines import Engine, Vllm
from checks.formats.json_schema import text_problem
from checks.formats.thinking import Thinking
from checks.kinds.chat_template import TEMPLATES
from checks.kinds.loader import LOADERS, Loader
from checks.kinds.method import MergedInto
from checks.kinds.rule import RuleName
from checks.kinds.scorer import Scorer
from checks.records.sections import (
    Agreement,
    Fraction,
    Positive,
    Section,
    Share,
    Source,
    problems,
    stricter,
)
from checks.training.exports import Export
from checks.training.quantization import ExportQuantization

LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
TemplateName = Annotated[str, TEMPLATES]  # a file of checks/chat_templates


class TemplateFile(Section):
    """A chat template in a file of this repository, in Jinja."""

    file: Annotated[str, Field(min_length=1, description="path from the repository's root")]
    sha256: Annotated[
        str | None, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file")
    ]


def _how(value: object) -> str:
    return (
        "none"
        if value is None
        else "by file"
        if isinstance(value, dict | TemplateFile)
        else "by name"
    )


class Base(Source):
    """The base model: its source, the digest that pins it, its licence, and how a chat becomes its prompt."""

    chat_template: Annotated[
        Annotated[TemplateName, Tag("by name")]
        | Annotated[TemplateFile, Tag("by file")]
        | Annotated[None, Tag("none")],
        Discriminator(_how),
        Field(description="null: the model's own; or the name of one that Lockstep has; or a file"),
    ] = None
    thinking: Annotated[
        Thinking | None,
        Field(
            description="the model thinks before it answers: docs/how-to/thinking.md; null: all that it writes is its "
            "answer"
        ),
    ] = None


class NearDuplicates(Section):
    """Near-duplicates: rows whose shingle sets are this similar form one group, which is kept in one split."""

    shingle: Annotated[
        int, Field(ge=1, le=20, description="characters in a shingle of the normalised prompt")
    ] = 5
    similarity: Annotated[
        float, Field(gt=0, le=1, description="Jaccard similarity of two shingle sets")
    ] = 0.8


class SplitShares(Section):
    """Shares of the rows; the rest is for training."""

    valid: Annotated[
        Fraction, Field(description="share of the rows for parity, probes and validation loss")
    ]
    test: Annotated[
        Fraction, Field(description="share of the rows for the evaluation and the gates")
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        total = self.valid + self.test
        return problems(
            (total >= 1, f"valid + test is {total:g}|leave rows to train on: a sum below 1")
        )


class Prepare(Section):
    """Raw data to train, valid and test splits."""

    seed: Annotated[int, Field(ge=0, description="of the assignment of rows to splits")] = 17
    placing: Annotated[
        Literal[1, 2],
        Field(
            description="what a row without an id of its owner is assigned by. 2: its request, so that another "
            "instruction, reference or column moves no row; 1: all of its content, as versions before 2 existed"
        ),
    ] = 1
    loader: Annotated[Loader, LOADERS, Field(description="how raw data becomes rows")]
    rules: Annotated[
        tuple[RuleName, ...], Field(strict=False, description="named rules, applied in this order")
    ]
    max_prompt_words: Annotated[
        int,
        Field(
            ge=1, description="most words of a prompt; the rule drop-long-prompt drops longer ones"
        ),
    ]
    personal_data: Annotated[
        PersonalData | None,
        Field(
            description="what validate finds in no row, and two rules mask or drop; null: it is not looked for"
        ),
        stricter("section"),
    ] = None
    near_duplicates: NearDuplicates = NearDuplicates()
    splits: SplitShares

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        of_personal_data = ("mask-personal-data", "drop-personal-data")
        first = next((rule for rule in self.rules if rule in of_personal_data), "")
        twice = sorted({rule for rule in self.rules if self.rules.count(rule) > 1})
        return problems(
            (
                first and self.personal_data is None,
                (
                    f"rules: {first} finds nothing while personal_data is not written|write prepare.personal_data: "
                    f"{{detectors: [{', '.join(detectors.KINDS)}]}}"
                ),
            ),
            (
                self.loader.planted or self.loader.of_documents,
                f"loader: {self.loader.kind} only adds rows to other data|name it in data.sources instead",
            ),
            (twice, f"rules has {', '.join(twice)} twice|name each rule once"),
        )


class MinRows(Section):
    """The smallest number of rows of each split."""

    train: Annotated[
        Positive, Field(description="fewest rows of the train split"), stricter("higher")
    ]
    valid: Annotated[
        Positive, Field(description="fewest rows of the valid split"), stricter("higher")
    ]
    test: Annotated[
        Positive,
        Field(description="fewest rows of the test split; 385 estimate a share to ±0.05 at 95 %"),
        stricter("higher"),
    ]


class Labels(Section):
    """For a task with a closed set of answers."""

    max_distinct: Annotated[
        int, Field(ge=2, description="most different labels"), stricter("lower")
    ]
    min_share: Annotated[
        float,
        Field(ge=0, lt=1, description="smallest share of a label in each split"),
        stricter("higher"),
    ]
    max_share: Annotated[
        float,
        Field(gt=0, le=1, description="largest share of a label in each split"),
        stricter("lower"),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.min_share > self.max_share,
                f"min_share {self.min_share:g} is above max_share {self.max_share:g}|swap or widen them",
            )
        )


class Preferences(Section):
    """For a training method that learns from answers that people liked more and less."""

    max_length_bias: Annotated[
        float,
        Field(
            ge=0,
            le=0.5,
            description="how far the share of pairs whose better answer is the longer may be from 0.5",
        ),
        stricter("lower"),
    ]
    max_auc: Annotated[
        float,
        Field(
            ge=0.5,
            le=1,
            description="how well the words of an answer alone may tell better from worse answers: area under the ROC "
            "curve of Naive Bayes, cross-validated",
        ),
        stricter("lower"),
    ]


class SemanticDuplicates(Vectors):
    """Rows of valid and test whose request means nearly the same as one of train, in other words.

    The encoder reads held-out rows as questions, and train rows as passages.
    """

    similarity: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="cosine of two requests' vectors from which on they are semantic near-duplicates",
        ),
        stricter("lower"),  # more rows have one
    ]
    max_share: Annotated[
        Share,
        Field(
            description="share of the rows of valid, and of test, that may have one in train; 1: only counted"
        ),
        stricter("lower"),
    ]


class Languages(Section):
    """In which languages the rows should be, by a detector."""

    expected: Annotated[
        tuple[LanguageCode, ...],
        Field(
            strict=False,
            min_length=1,
            description="languages that rows may be in, by ISO 639 code, such as en",
        ),
        stricter("fewer"),
    ]
    texts: Annotated[
        tuple[Literal["request", "reference", "document"], ...],
        Field(
            strict=False,
            min_length=1,
            description="what is judged, each on its own; document: of continued pre-training",
        ),
        stricter("more"),
    ]
    min_characters: Annotated[Positive, Field(description="shorter texts are not judged")]
    min_probability: Annotated[
        float,
        Field(
            ge=0.5,
            le=1,
            description="a text is judged only if the detector gives its language this probability or more",
        ),
    ]
    max_share: Annotated[
        Share,
        Field(
            description="share of the judged texts that may be in another language; 1: only counted"
        ),
        stricter("lower"),
    ]


class Validate(Section):
    """Bounds of the expectations on the splits."""

    min_rows: MinRows
    max_prompt_tokens: Annotated[
        Positive,
        Field(description="most tokens of a prompt, chat template included"),
        stricter("lower"),
    ]
    max_reference_tokens: Annotated[
        Positive,
        Field(description="most tokens of a reference, end of turn included"),
        stricter("lower"),
    ]
    labels: Annotated[
        Labels | None, Field(description="null for free text"), stricter("section")
    ] = None
    preferences: Annotated[
        Preferences | None,
        Field(description="for the training methods dpo and kto"),
        stricter("section"),
    ] = None
    semantic_duplicates: Annotated[
        SemanticDuplicates | None,
        Field(
            description="held-out rows that mean the same as a train row, by an encoder; null: not looked for"
        ),
        stricter("section"),
    ] = None
    languages: Annotated[
        Languages | None,
        Field(
            description="rows in other languages than expected, by a detector; null: not looked for"
        ),
        stricter("section"),
    ] = None


class MergeParity(Agreement):
    """The agreement without which merge refuses; a gate of kind parity may be stricter."""

    prompts: Annotated[
        int,
        Field(ge=1, description="rows of the valid split that are compared"),
        stricter("higher"),
    ] = 128


class Merge(Section):
    """Base and adapter to the directory that ships."""

    shard_mb: Annotated[int, Field(ge=1, description="largest shard in megabytes (10^6 bytes)")] = (
        2000
    )
    base: MergedInto
    parity: MergeParity = MergeParity(max_logprob_diff=1.0, min_top1=0.95)
    quantization: Annotated[
        ExportQuantization | None,
        Field(
            description="ship weights of 8 or 4 bits: docs/how-to/quantization.md; null: 16 bits"
        ),
    ] = None
    draft: Annotated[
        Source | None,
        Field(
            description="a smaller model that ships with the weights, for serve.speculation of kind draft"
        ),
    ] = None
    export: Annotated[
        tuple[Export, ...] | None,
        Field(
            strict=False,
            min_length=1,
            max_length=1,
            description="another format that ships beside the safetensors: docs/how-to/gguf.md",
        ),
    ] = None

    form: Annotated[
        Literal["merged", "adapter"],
        Field(
            description="what ships: one merged model, or the base's weights and the adapter, which the server adds: "
            "docs/how-to/adapter.md"
        ),
    ] = "merged"

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        beside = ("quantization", "draft", "export")
        for key in beside if self.form == "adapter" else ():
            if getattr(self, key) is not None:
                yield (
                    f"{key}: is made of one merged model, and form is adapter|set it to null, or form to merged"
                )


class BasePrompt(Section):
    """The prompt of the untuned base, so that the comparison is fair."""

    labels: Annotated[
        bool, Field(description="whether the system message ends with the list of labels")
    ]
    shots: Annotated[
        int, Field(ge=0, le=50, description="examples of the train split before each prompt")
    ]


class Evaluate(Section):
    """One prediction per test row, for the merged model, the base and the baselines."""

    scorers: Annotated[
        tuple[Scorer, ...],
        Field(strict=False, min_length=1, description="how answers are scored; the first counts"),
    ]
    max_new_tokens: Annotated[
        Positive,
        Field(description="most tokens of an answer; at least validate.max_reference_tokens"),
    ]
    batch_tokens: Annotated[
        int,
        Field(
            ge=1, description="prompt tokens per forward pass; fewer need less memory and more time"
        ),
    ] = 4096
    stable_batches: Annotated[
        bool,
        Field(
            description="cut batches so that more test rows change few of them, and kept answers are used again"
        ),
    ] = False
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"], Field(description="number format of the evaluated models")
    ] = "bf16"
    engine: Annotated[
        Engine | None,
        Field(
            description="what generates the answers; null: transformers, in the stage's own process"
        ),
    ] = None
    decoding: Annotated[
        Decoding | None,
        Field(
            description="how answers to the test rows are sampled; null: the most likely token each time"
        ),
    ] = None
    json_schema: Annotated[
        str | None,
        Field(
            description="a JSON Schema, as JSON text, that answers are made to fit: docs/how-to/serving.md; "
            "needs the extra grammar"
        ),
    ] = None
    confidence: Annotated[
        Fraction,
        Field(description="confidence level of the intervals in the report"),
        stricter("higher"),
    ] = 0.95
    base_prompt: BasePrompt
    baselines: Annotated[
        tuple[Baseline, ...],
        Field(strict=False, description="cheap models for comparison, trained on the train split"),
        stricter("more"),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        kinds = [scorer.kind for scorer in self.scorers]
        kind = self.engine.kind if self.engine else ""
        most = self.engine.max_rows if isinstance(self.engine, Vllm) else 0
        unusable = text_problem(self.json_schema)
        return problems(
            (
                len(set(kinds)) < len(kinds),
                f"scorers {', '.join(kinds)} has one twice|name each scorer once",
            ),
            (unusable, f"json_schema: {unusable}"),
            (
                self.engine and self.stable_batches,
                (
                    f"stable_batches has no effect with engine {kind}, which forms its own batches"
                    "|remove stable_batches or engine"
                ),
            ),
            (
                most > self.batch_tokens,
                (
                    f"engine.max_rows is {most}, but a pass has {self.batch_tokens} tokens, and each row "
                    "needs one or more|lower engine.max_rows or raise batch_tokens"
                ),
            ),
        )
