"""Lists what auditors ask of a release, and the parts of a record that answer it.

Sources: Regulation (EU) 2024/1689 (OJ L, 2024/1689, 12.7.2024), Annex IV, Article 53 and its Annexes XI and XII, each
point in words of our own; ISO/IEC 42001:2023 by the numbers that public lists of its clauses and controls agree on.
"""

from typing import Literal, NamedTuple

Part = Literal[
    "model card", "data card", "report", "catalogue", "bill of materials",
    "statement", "image", "verification", "provenance", "approvals", "sealed looks", "harvest reviews", "keys",
    "parameters", "pipeline", "verdict", "fetch", "prepare", "train", "evaluation", "suites", "looks", "other reports",
    "training time", "training energy", "serving energy", "moves", "quarantine", "commands",
]  # fmt: skip

ANSWERS: dict[Part, str] = {
    "model card": "intended use, known limits, scores with intervals, gates, training, energy and emissions, licences",
    "data card": "where the data comes from, its known limits, splits, rules, expectations",
    "report": "result, decision, what each test could have seen, how the model was made",
    "catalogue": "the data as MLCommons Croissant",
    "bill of materials": "CycloneDX 1.6: model, base, data and files by digest; model card with quantitative analysis",
    "statement": "the release, as it was signed: image, weights, materials, the report of its verification",
    "image": "the manifest of the image, whose digest is the image's",
    "verification": "what the served model did, signed by who verified it",
    "provenance": "SLSA provenance of the image",
    "approvals": "who allowed the image to run in an environment, and why",
    "sealed looks": "whether the model passed on a test split that nobody sees, and how often that was asked",
    "harvest reviews": "which captured requests it was made with: consent, counts, who labelled, what was left out",
    "keys": "a public key of who signed",
    "parameters": "every parameter and every gate",
    "pipeline": "the stages, with the digests of what each read and wrote",
    "verdict": "each gate's finding",
    "fetch": "base and data as they were fetched, with their licences",
    "prepare": "rows kept and dropped, by which rule, into which split",
    "train": "rows, steps, loss, parameters, devices, versions of software",
    "evaluation": "scores on the test split beside base, baselines and earlier models",
    "suites": "scores of further suites",
    "looks": "which models each test split has judged",
    "other reports": "a further report that the verdict rests on",
    "training time": "how long the training took, on which device, and the energy that counters measured",
    "training energy": "the energy of the training",
    "serving energy": "the energy of a number of requests",
    "moves": "every move of an environment while the release ran, rollbacks among them: who, when, why",
    "quarantine": "releases of that time that were found bad, and why",
    "commands": "the commands that verify this pack",
}


class Question(NamedTuple):
    """One question: ``source`` asks it, ``parts`` answer it, and ``lacks`` says what no part answers."""

    source: str
    asks: str
    parts: tuple[Part, ...]
    lacks: str = ""


_ANNEX_IV = "EU AI Act, Annex IV"
_ANNEX_XI = "EU AI Act, Article 53(1)(a), Annex XI"
_ISO = "ISO 42001"

QUESTIONS = (
    Question(
        f"{_ANNEX_IV}, 1(a)", "intended purpose, provider, version, relation to earlier versions",
        ("model card", "bill of materials", "moves"), "the provider",
    ),
    Question(f"{_ANNEX_IV}, 1(b)", "how the system works with other hardware, software and AI systems", ()),
    Question(
        f"{_ANNEX_IV}, 1(c)", "versions of software, and what their updates require", ("train", "statement"),
        "what updates require",
    ),
    Question(f"{_ANNEX_IV}, 1(d)", "the forms in which it is put into service", ("image", "statement")),
    Question(
        f"{_ANNEX_IV}, 1(e)", "the hardware that it is to run on", ("verification",),
        "other hardware than that of the verification",
    ),
    Question(f"{_ANNEX_IV}, 1(f)", "pictures of products that it is a component of", ()),
    Question(f"{_ANNEX_IV}, 1(g)", "the user interface of the deployer", ()),
    Question(
        f"{_ANNEX_IV}, 1(h)", "instructions for use", ("model card",),
        "instructions beyond intended use and limits",
    ),
    Question(
        f"{_ANNEX_IV}, 2(a)", "how it was developed, with which pre-trained systems and tools of others",
        ("report", "parameters", "pipeline", "provenance", "bill of materials"),
    ),
    Question(
        f"{_ANNEX_IV}, 2(b)", "design: logic, choices and their reasons, what is optimised, trade-offs",
        ("parameters", "report"), "the reasons for the choices",
    ),
    Question(
        f"{_ANNEX_IV}, 2(c)", "architecture of the system, computing used", ("train", "training time"),
        "the architecture of the system around the model",
    ),
    Question(
        f"{_ANNEX_IV}, 2(d)", "data sheets: training method, origin, scope, selection, labelling, cleaning",
        ("data card", "catalogue", "fetch", "prepare", "bill of materials", "harvest reviews"),
        "how labels were made, unless the data card says it",
    ),
    Question(f"{_ANNEX_IV}, 2(e)", "human oversight (Article 14)", ()),
    Question(f"{_ANNEX_IV}, 2(f)", "changes that were determined in advance", ()),
    Question(
        f"{_ANNEX_IV}, 2(g)", "validation and testing: data, metrics, results, reports signed by who is responsible",
        (
            "report", "evaluation", "suites", "verdict", "looks", "sealed looks", "verification", "approvals",
            "statement",
        ),
        "tests for discriminatory effects, unless a gate makes one",
    ),
    Question(
        f"{_ANNEX_IV}, 2(h)", "cybersecurity", ("statement", "provenance", "bill of materials"),
        "measures for the system in operation",
    ),
    Question(
        f"{_ANNEX_IV}, 3", "capabilities and limits, accuracy for groups of persons, risks, oversight, inputs",
        ("model card", "evaluation"), "groups of persons, risks to health, safety and rights, human oversight",
    ),
    Question(
        f"{_ANNEX_IV}, 4", "why the metrics are appropriate", ("parameters",), "the reasons",
    ),
    Question(f"{_ANNEX_IV}, 5", "the risk management system (Article 9)", ()),
    Question(f"{_ANNEX_IV}, 6", "changes through the lifecycle", ("moves", "quarantine")),
    Question(f"{_ANNEX_IV}, 7", "harmonised standards, or what was done instead", ()),
    Question(f"{_ANNEX_IV}, 8", "the EU declaration of conformity (Article 47)", ()),
    Question(
        f"{_ANNEX_IV}, 9", "evaluation after placing on the market, with its plan (Article 72)",
        ("moves", "quarantine"), "the plan, and what monitoring measured",
    ),
    Question(
        f"{_ANNEX_XI}, 1(a)", "tasks, and the systems that the model can be part of", ("model card",), "these systems",
    ),
    Question(f"{_ANNEX_XI}, 1(b)", "acceptable use policies", ()),
    Question(f"{_ANNEX_XI}, 1(c)", "date of release, methods of distribution", ("moves", "statement")),
    Question(f"{_ANNEX_XI}, 1(d)", "architecture, number of parameters", ("train",), "the architecture"),
    Question(
        f"{_ANNEX_XI}, 1(e)", "modality and format of inputs and outputs", ("bill of materials",),
        "their format",
    ),
    Question(f"{_ANNEX_XI}, 1(f)", "licence", ("bill of materials", "model card")),
    Question(
        f"{_ANNEX_XI}, 2(a)", "what is needed to integrate the model", ("statement", "image"),
        "instructions for integration",
    ),
    Question(
        f"{_ANNEX_XI}, 2(b)", "design and training, choices and their reasons", ("parameters", "report", "train"),
        "the reasons for the choices",
    ),
    Question(
        f"{_ANNEX_XI}, 2(c)", "data of training and testing: origin, curation, number, measures against bias",
        ("data card", "catalogue", "fetch", "prepare", "bill of materials", "harvest reviews"),
        "measures against bias",
    ),
    Question(
        f"{_ANNEX_XI}, 2(d)", "computing and time of the training", ("train", "training time"),
        "the number of floating-point operations",
    ),
    Question(f"{_ANNEX_XI}, 2(e)", "energy consumption", ("training energy", "serving energy")),
    Question(
        "EU AI Act, Article 53(1)(b), Annex XII", "information for who integrates the model",
        ("model card", "data card", "bill of materials", "statement"), "acceptable use, largest input",
    ),
    Question(
        "EU AI Act, Article 53(1)(c)", "a policy to respect copyright", ("fetch", "bill of materials"),
        "the policy: only licences are",
    ),
    Question(
        "EU AI Act, Article 53(1)(d)", "a public summary of the training content, by the template of the AI Office",
        ("data card",), "the summary by that template",
    ),
    Question(f"{_ISO}, 7.5", "documented information", ("statement", "pipeline")),
    Question(f"{_ISO}, 9.1", "monitoring, measurement, evaluation", ("evaluation", "verdict"), "monitoring"),
    Question(f"{_ISO}, 10.2", "nonconformity, corrective action", ("moves", "quarantine")),
    Question(f"{_ISO}, A.4.3", "data resources", ("data card", "bill of materials")),
    Question(f"{_ISO}, A.4.5", "computing resources", ("train", "training time", "training energy")),
    Question(f"{_ISO}, A.5.3", "impact assessments", ()),
    Question(f"{_ISO}, A.6.2.3", "design and development", ("parameters", "pipeline", "report")),
    Question(f"{_ISO}, A.6.2.4", "verification and validation", ("verdict", "evaluation", "suites", "verification")),
    Question(f"{_ISO}, A.6.2.5", "deployment", ("statement", "approvals", "moves")),
    Question(f"{_ISO}, A.6.2.6", "operation and monitoring", ("moves", "quarantine"), "what monitoring measured"),
    Question(f"{_ISO}, A.6.2.7", "technical documentation", ("model card", "data card", "bill of materials")),
    Question(f"{_ISO}, A.6.2.8", "event logs", ("moves",), "logs of the system in operation"),
    Question(f"{_ISO}, A.7.4", "quality of data", ("prepare", "data card", "verdict")),
    Question(f"{_ISO}, A.7.5", "provenance of data", ("fetch", "catalogue", "bill of materials", "harvest reviews")),
    Question(f"{_ISO}, A.7.6", "preparation of data", ("prepare", "parameters")),
    Question(f"{_ISO}, A.8.4", "communication of incidents", ()),
)  # fmt: skip
