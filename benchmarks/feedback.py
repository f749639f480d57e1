"""A year of training on captured requests: what is merged, what it does, and which gate or `watch` sees a bad loop.

    python -m benchmarks.feedback [--runs 2] [--seed 20261201] [--looks 52]

Each week 200 requests come in sessions, and 40 % of them get a label. `harvest`'s own code chooses rows of all weeks
so far: near-duplicates of test rows, contradicted and repeated requests leave. Somebody always signs. A candidate is
trained on 800 rows and the harvest, and judged on one test split of 1,200 rows. It is merged if every gate passes.

* Requests are seven made-up words, about one of eight topics. A quarter of them are common ones that many people send.
* The model is scikit-learn's naive Bayes on counts of words, really trained. It names the topic.
* Gates: main -5 points, the best release -10, slices -15, as in params.yaml; or slices -15 against the best release
  too; or also better than main. They are decided by their own tests, with Holm's correction, at a share of the error
  for each of --looks candidates.
* `watch` asks its own questions of each week, with user keys and labels, at one false alarm a year. Its reference are
  at most 1,000 train rows of the release.

Scenarios: nothing changes; words of every topic are replaced slowly, up to 80 %; 5 % of the labels come from somebody
who sends requests about the first topic and labels them as the second; labels repeat what the model answered.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.naive_bayes import MultinomialNB
from tqdm import tqdm

from benchmarks import tables, watch
from benchmarks.watch import MONITOR, Request
from checks.config.pipeline_params import Prepare
from checks.data import near_duplicates
from checks.data.personal_data import PersonalData
from checks.formats.captures import Capture
from checks.gates.improves import ImprovesGate
from checks.gates.looks import LooksGate
from checks.gates.non_inferior import NonInferiorGate
from checks.kinds.gate import Gate, decided_at
from checks.stats import multiple
from checks.stats.drift import Text
from checks.stats.paired import Comparison
from release.monitoring import harvest_rows, window_questions
from release.monitoring.answers import Reference, ScoredAnswer
from release.monitoring.harvest_splits import Splits
from release.monitoring.store import CaptureStore, Label
from release.monitoring.window import TimeSpan, Traffic

WEEKS, REQUESTS, LABELLED, ADVERSARIAL = 52, 200, 0.4, 0.05
SESSION = 1.5  # Requests of a session, on average.
TOPICS = tuple(f"topic-{number}" for number in range(8))
WORDS, COMMON = 7, 0.25
OWN, NEIGHBOUR = 0.35, 0.20  # Shares of a request's words; the others are of no topic.
REPLACED = 0.8  # The share of topics' words that are new after a year of drift.
TRAIN, TEST_OF_TOPIC, REFERENCE, FRESH = 800, 150, 1000, 4000
ASKED = ("not worse", "slices as the best", "better than main")
SCENARIOS = ("nothing changes", "slow drift", "5 % adversarial labels", "own answers as labels")
PREPARE = Prepare.model_validate(
    {
        "loader": {"kind": "table", "files": "*.jsonl", "columns": {"messages": "messages"}},
        "rules": [], "max_prompt_words": WORDS, "splits": {"valid": 0.1, "test": 0.1},
        "personal_data": PersonalData(detectors=("private_key",)),
    }
)  # fmt: skip
SPAN = TimeSpan(watch.BEGAN, watch.BEGAN + timedelta(weeks=WEEKS))
Scores = NDArray[np.float64]


class World:
    """The words of the topics, and requests made of them."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        words = ["".join(random.choice(letters, 6)) for _ in range(len(TOPICS) * 60 + 80)]
        self.neutral = words[:80]
        self.words = [words[80 + 60 * place :][:30] for place in range(len(TOPICS))]
        self.new_words = [words[110 + 60 * place :][:30] for place in range(len(TOPICS))]
        self.common = [[self._text(topic, 0.0) for _ in range(15)] for topic in range(len(TOPICS))]

    def _text(self, topic: int, replaced: float) -> str:
        kinds, new, places = (
            self.random.random(WORDS),
            self.random.random(WORDS),
            self.random.random(WORDS),
        )
        words = list[str]()
        for kind, is_new, place in zip(kinds, new < replaced, places, strict=True):
            about = topic if kind < OWN else (topic + 1) % len(TOPICS)
            vocabulary = self.new_words if is_new else self.words
            among = vocabulary[about] if kind < OWN + NEIGHBOUR else self.neutral
            words.append(among[int(place * len(among))])
        return " ".join(words)

    def request(self, topic: int, replaced: float, user: str = "", day: float = 0.0) -> Request:
        """Draw a request: a common one, or words of its own."""
        common = self.random.random() < COMMON * (1 - replaced)
        text = (
            self.common[topic][self.random.integers(15)] if common else self._text(topic, replaced)
        )
        return Request(text, TOPICS[topic], user, day)

    def rows(self, of_topic: int) -> list[Request]:
        """Draw as many rows of each topic, no text twice."""
        rows = dict[str, Request]()
        for topic in range(len(TOPICS)):
            while len(rows) < (topic + 1) * of_topic:
                request = self.request(topic, 0.0)
                rows.setdefault(request.text, request)
        return list(rows.values())

    def week(self, size: int, replaced: float, topic: int | None = None) -> list[Request]:
        """Draw the requests of a week, in sessions of one topic each; None: of any topic."""
        requests = list[Request]()
        while len(requests) < size:
            about = int(self.random.integers(len(TOPICS))) if topic is None else topic
            user, day = f"s{self.random.integers(2**62)}", self.random.random() * 6.9
            for number in range(self.random.geometric(1 / SESSION)):
                requests.append(self.request(about, replaced, user, day + number / 1440))
        return sorted(requests[:size], key=lambda request: request.day)


class Stored(CaptureStore):
    """Captures with labels, in memory."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.captures, self.given = list[Capture](), list[Label]()

    def requests(self, environment: str, since: datetime, until: datetime) -> Iterator[Capture]:
        """Yield all captures."""
        yield from self.captures

    def labels(self) -> Iterator[Label]:
        """Yield all labels."""
        yield from self.given


class Model:
    """A trained model, its rows, and its scores on the test split."""

    def __init__(self, rows: Sequence[tuple[str, str]], test: Sequence[Request]) -> None:
        self.rows = rows
        texts, labels = zip(*rows, strict=True)
        self.classifier = MultinomialNB(alpha=0.5).fit(_counts(texts), labels)
        self.answers = self.answer(test)
        self.scores = _right(self.answers, test)

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return the topic that the model names for each request."""
        names = self.classifier.predict(_counts([request.text for request in requests]))
        return [str(name) for name in names]

    def accuracy(self, requests: Sequence[Request]) -> float:
        """Return the share of ``requests`` that are answered rightly."""
        return float(_right(self.answer(requests), requests).mean())


@cache
def _word(word: str) -> int:
    """Return the word's number: a hash, as of scikit-learn's HashingVectorizer."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") % 2**13


@cache
def _words(text: str) -> tuple[int, ...]:
    return tuple(_word(word) for word in text.split())


def _counts(texts: Sequence[str]) -> sparse.csr_matrix:
    """Count the words of each text, which has WORDS."""
    numbers = np.array([_words(text) for text in texts]).ravel()
    ends = np.arange(0, len(numbers) + 1, WORDS)
    return sparse.csr_matrix((np.ones(len(numbers)), numbers, ends), shape=(len(texts), 2**13))


def _right(answers: Sequence[str], requests: Sequence[Request]) -> Scores:
    pairs = zip(answers, requests, strict=True)
    return np.array([float(answer == request.label) for answer, request in pairs])


def policy(asked: str, looks: int) -> dict[str, Gate]:
    """Return the gates of ``asked``, one of ASKED, at the confidence of one of ``looks`` candidates."""
    about = {"metric": "exact-match", "confidence": 0.95}
    kept = about | {"kind": "non_inferior"}
    gates: dict[str, Gate] = {
        "looks": LooksGate(kind="looks", most=looks),
        "main": NonInferiorGate.model_validate(kept | {"against": "main", "margin": 0.05}),
        "best": NonInferiorGate.model_validate(kept | {"against": "best", "margin": 0.10}),
        "slices": NonInferiorGate.model_validate(kept | {"against": "main", "margin": 0.15}),
    }
    if asked == ASKED[1]:
        gates["slices of the best"] = gates["slices"].model_copy(update={"against": "best"})
    if asked == ASKED[2]:
        gates["better"] = ImprovesGate.model_validate(
            about | {"kind": "improves", "against": "main", "margin": 0.0}
        )
    return decided_at(gates, looks)


def judge(gates: dict[str, Gate], candidate: Model, main: Model, best: Model) -> dict[str, str]:
    """Return the status of each gate that compares scores."""
    compared = {
        name: _compared(name, gate, candidate, best if gate.against == "best" else main)
        for name, gate in gates.items()
        if isinstance(gate, (NonInferiorGate, ImprovesGate))
    }
    passing = dict(zip(compared, multiple.holm([p for _, p, _ in compared.values()]), strict=True))
    failing = dict(zip(compared, multiple.holm([p for *_, p in compared.values()]), strict=True))
    statuses = dict[str, str]()
    for name, (comparison, _, _) in compared.items():
        gate = gates[name]
        assert isinstance(gate, (NonInferiorGate, ImprovesGate))
        bounds = (comparison.effect, comparison.effect)  # They are shown in the reason alone.
        statuses[name], _, _ = gate.decided(
            "", comparison, bounds, 0.0, passing[name], failing[name]
        )
    return statuses


def _compared(
    name: str, gate: NonInferiorGate | ImprovesGate, candidate: Model, reference: Model
) -> tuple[Comparison, float, float]:
    """Return the comparison with the lowest effect, of slices if there are some, and the p-values to pass and fail."""
    parts = len(TOPICS) if name.startswith("slices") else 1
    comparisons = [
        gate.compared(ours, theirs, np.arange(len(ours)))
        for ours, theirs in zip(
            np.split(candidate.scores, parts), np.split(reference.scores, parts), strict=True
        )
    ]
    lowest = min(range(parts), key=lambda place: comparisons[place].effect)
    worse = multiple.holm([comparison.p_worse for comparison in comparisons])
    return comparisons[lowest], max(comparison.p for comparison in comparisons), worse[lowest]


class Year(NamedTuple):
    """What a year did. ``seen``: weeks in which a gate refused or `watch` raised an alarm, by name."""

    opened: int
    merged: int
    gain: float
    gain_of_topic: float
    as_answered: float
    seen: Counter[str]


class Production:
    """The released model, the windows that it has had, and what `watch` compares them with."""

    def __init__(self, model: Model, test: Sequence[Request], random: np.random.Generator) -> None:
        self.model, self.earlier = model, list[Traffic]()
        chosen = random.permutation(len(model.rows))[:REFERENCE]
        prompts = {model.rows[place][0]: f"p{place}" for place in chosen}
        self.reference = Reference(
            [Text(name, text, text) for text, name in prompts.items()],
            [
                ScoredAnswer(f"t{place}", request.text, answer, request.text, float(score))
                for place, (request, answer, score) in enumerate(
                    zip(test, model.answers, model.scores, strict=True)
                )
            ],
            frozenset(TOPICS),
        )

    def alarms(self, traffic: Traffic) -> list[str]:
        """Return the findings of `watch` that fail."""
        asked = watch.questions(traffic, self.earlier, self.reference, keyed=True)
        findings = window_questions.findings(asked, MONITOR.alpha)
        self.earlier.insert(0, traffic)
        return [finding.name for finding in findings if finding.status == "fail"]


def year(scenario: str, asked: str, looks: int, seed: Sequence[int]) -> Year:
    """Simulate a year."""
    random = np.random.default_rng(seed)
    world = World(random)
    test = world.rows(TEST_OF_TOPIC)
    tested = {request.text for request in test}
    rows = [
        (row.text, row.label) for row in world.rows(TRAIN // len(TOPICS)) if row.text not in tested
    ]
    first = best = Model(rows, test)
    production, gates = Production(first, test, random), policy(asked, looks)
    store, seen = Stored(), Counter[str]()
    opened, merged, judged, is_open, as_answered = 0, 0, 0, False, 0.0
    for week in range(WEEKS):
        replaced = REPLACED * (week + 1) / WEEKS if scenario == "slow drift" else 0.0
        traffic = _traffic(world, production.model, scenario, replaced, week)
        seen.update(f"watch {name}" for name in production.alarms(traffic))
        harvested = _harvest(store, traffic, [*tested, *(text for text, _ in rows)])
        as_answered = harvested.as_answered / len(harvested.rows)
        opened, is_open, judged = opened + (not is_open), True, judged + 1
        if judged > looks:
            seen["gate looks"] += 1
            continue
        learned = [(row.messages[0].content, row.messages[-1].content) for row in harvested.rows]
        candidate = Model([*rows, *learned], test)
        statuses = judge(gates, candidate, production.model, best)
        seen.update(
            f"gate {name}"
            for name, status in statuses.items()
            if status == "fail" and name != "better"
        )
        if all(status == "pass" for status in statuses.values()):
            production, merged, is_open = Production(candidate, test, random), merged + 1, False
            best = max(best, candidate, key=lambda model: float(model.scores.mean()))
    last = REPLACED if scenario == "slow drift" else 0.0
    of_each = FRESH // len(TOPICS)
    fresh = [world.request(topic, last) for topic in range(len(TOPICS)) for _ in range(of_each)]
    of_topic = fresh[:of_each]
    now = production.model
    return Year(
        opened, merged, now.accuracy(fresh) - first.accuracy(fresh), now.accuracy(of_topic) - first.accuracy(of_topic),
        as_answered, seen,
    )  # fmt: skip


def _traffic(world: World, model: Model, scenario: str, replaced: float, week: int) -> Traffic:
    """Return a week's captured requests, and the labels of some of them."""
    labelled = round(LABELLED * REQUESTS)
    hostile = round(ADVERSARIAL * labelled) if scenario.endswith("adversarial labels") else 0
    requests = [*world.week(REQUESTS - hostile, replaced), *world.week(hostile, replaced, topic=0)]
    answers, labels, captured = model.answer(requests), dict[str, str](), list[Capture]()
    chosen = set(world.random.permutation(REQUESTS - hostile)[: labelled - hostile].tolist())
    for place, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        name = f"r{world.random.integers(2**62)}"
        time = watch.BEGAN + timedelta(weeks=week, days=request.day)
        captured.append(watch.capture(name, request, answer, time, 0.5))
        if place >= REQUESTS - hostile:
            labels[name] = TOPICS[1]
        elif place in chosen:
            labels[name] = answer if scenario.startswith("own answers") else request.label
    return Traffic(tuple(captured), labels, ())


def _harvest(store: Stored, traffic: Traffic, known: Sequence[str]) -> harvest_rows.Harvested:
    """Add a week to the store, and choose rows of all weeks. ``known``: texts of test and train rows.

    Captures like known texts are left out here, once, and not again each week by ``harvest_rows``.
    """
    captures = [capture for capture in traffic.requests if capture.request_id in traffic.labels]
    texts = [capture.input_messages[0].text for capture in captures]
    near = PREPARE.near_duplicates
    alike = {
        place
        for place, _ in near_duplicates.first_alike(texts, known, near.shingle, near.similarity)
    }
    for place, capture in enumerate(captures):
        if place not in alike:
            store.captures.append(capture)
            name = capture.request_id
            store.given.append(Label(request_id=name, label=traffic.labels[name]))
    return harvest_rows.choose(store, "production", SPAN, Splits([], [], ()), PREPARE, ())


def years(runs: int, seed: int, looks: int) -> Iterator[tuple[object, ...]]:
    """Simulate years of each scenario, with each policy."""
    for place, scenario in enumerate(SCENARIOS):
        for asked in ASKED:
            done = [
                year(scenario, asked, looks, [seed, place, run])
                for run in tqdm(range(runs), desc=f"{scenario}, {asked}", leave=False)
            ]
            weeks = defaultdict[str, list[int]](list)
            for result in done:
                for name, count in result.seen.items():
                    weeks[name].append(count)
            by = (
                f"{name}: {len(of)} of {runs}, {sum(of) / runs:.1f} weeks"
                for name, of in sorted(weeks.items())
            )
            yield (
                scenario,
                asked,
                f"{np.mean([result.opened for result in done]):.1f}",
                f"{np.mean([result.merged for result in done]):.1f}",
                f"{100 * np.mean([result.gain for result in done]):+.1f}",
                f"{100 * np.mean([result.gain_of_topic for result in done]):+.1f}",
                f"{np.mean([result.as_answered for result in done]):.0%}",
                "; ".join(by) or "none",
            )


def main() -> None:
    """Print the table."""
    options = tables.numbers(__doc__ or "", runs=2, seed=20261201, looks=WEEKS)
    columns = (
        "scenario", "asked", "opened", "merged", "accuracy, points", "first topic", "labels as answered",
        "seen by: runs, weeks a year",
    )  # fmt: skip
    tables.show("A year", columns, years(options.runs, options.seed, options.looks))


if __name__ == "__main__":
    main()
