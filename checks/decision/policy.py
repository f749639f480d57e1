"""The policy that decides about a model, and whether one policy is weaker than another.

Every parameter is policy, except those in ``EXEMPT``, each with a reason: a new parameter is policy until somebody
declares that it is not. A field states the direction in which it is stricter (``sections.stricter``). A field without a
direction, or with values that cannot be compared, counts as changed and so needs approval: another base, another
serving image, another branch of environments.
"""

import copy
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from checks.config.params import Params
from checks.kinds.gate import Gate
from checks.kinds.scorer import Scorer
from checks.records.record import Digest, Record
from checks.records.sections import Section, Way, directions
from checks.storage import digest, layout

TEST = (layout.SPLITS / "test.jsonl").as_posix()  # the path of a change of test set
SCORERS = "evaluate.scorers"
ENVIRONMENTS = "promote.environments"
SUITES = "suites"
SOURCES = "data.sources"

ChangeKind = Literal["weaker", "removed", "changed", "stronger", "added", "renamed"]

# Parameters that are no policy, with all that lies below them, and why.
EXEMPT: Mapping[str, str] = {
    "train": "It is what a pull request proposes. The gates judge the model that comes of it.",
    "prepare.seed": "It decides which rows are test rows. The test set is policy itself, by its digest.",
    "prepare.placing": "It decides which rows are test rows. The test set is policy itself, by its digest.",
    "prepare.splits": "They decide how many rows are test rows. The test set is policy itself, by its digest.",
    "merge.base": "It decides what the adapter is added to. The gates judge the model that comes of it.",
    "merge.shard_mb": "It sets the sizes of the weight files.",
    "evaluate.batch_tokens": "It sets speed and memory use of the evaluation. No margin may be below its noise.",
    "evaluate.stable_batches": "It decides which rows are answered together. No margin may be below its noise.",
    "monitor": "It says what `lockstep watch` asks of production. No gate and no promotion reads it.",
    "tracking": "It says where MLflow stores logs. Nothing reads them.",
}

# What a model and its image are made of. A release that was made of others than the target branch has now is as good,
# if the target branch once had these: `lockstep promote` asks that.
INPUTS = ("base", "data", "prepare", "train_budget", "merge.draft", "serve")
# Which file is read belongs to one model; what a suite asks of such files does not.
_LOG = re.compile(r"suites\.[^.]+\.(logs|judge\.log|labels)\b")
_NO_INPUTS = (  # below one, and must hold
    "base.license", "data.license", "merge.draft.license", "serve.probes", "serve.verify",
)  # fmt: skip
# What a new suite may permit that nothing permitted before.
_GRANTS = ("harvest_error",)
_DATA, _LOADER = "data.uri", "prepare.loader"
_CONDITION = re.compile(r"data\.sources\.[^.]+\.(license|review)")  # They count like data.license.


class Change(Record):
    """One difference between two policies; ``old`` or ``new`` is null if that side has no value."""

    # The path in params.yaml, such as gates.routes_well.at_least, or the test split's file.
    path: str
    old: JsonValue
    new: JsonValue
    kind: ChangeKind
    text: str  # one line for a person

    @property
    def needs_approval(self) -> bool:
        """Whether code owners must approve it: it is weaker, or different."""
        return self.kind in ("weaker", "removed", "changed")

    @property
    def is_input(self) -> bool:
        """Whether it is about the inputs of a model or image, not about conditions on them."""
        must_hold = _below(self.path, _NO_INPUTS) or _CONDITION.fullmatch(self.path) is not None
        return (_below(self.path, INPUTS) and not must_hold) or bool(_LOG.match(self.path))

    @property
    def is_of_task(self) -> bool:
        """Whether it is about one task, not about what the environments require of every task."""
        return not _below(self.path, ("promote", "sealed"))

    @property
    def is_judged(self) -> bool:
        """Whether judging the same evidence under the old policy covers it.

        Other changes cannot be judged from the evidence: they affect earlier stages or later verbs.
        """
        return self.path == TEST or self.path.startswith(("gates.", SCORERS))


class Policy(NamedTuple):
    """Everything that decides about a model: the parameters without exempt ones, and the test split (None: unknown)."""

    params: Params
    test: Digest | None

    @property
    def digest(self) -> str:
        """Return the digest that an approval names. A parameter that is off counts like one that is not written."""
        plain = self.params.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not self.params.suites:
            del plain["suites"]
        for path in EXEMPT:
            *parents, last = path.split(".")
            section: dict[str, Any] = plain
            for parent in parents:
                section = section[parent]
            del section[last]
        return digest.of_json({"params": plain, "test": self.test})


def of(params: Params, test: Digest | None) -> Policy:
    """Return the policy of ``params`` and the test split with digest ``test``."""
    return Policy(params, test)


def defaults(params: Params) -> dict[str, JsonValue]:
    """Return the policy that params.yaml leaves to its defaults: each value by its path, such as evaluate.precision.

    What is off by default is there too: another version may turn it on.
    """
    exempt = tuple(EXEMPT)
    return {path: value for path, value in params.unwritten().items() if not _below(path, exempt)}


def with_defaults(document: Mapping[str, Any], values: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return the content of a params.yaml that also writes ``values``, by path.

    Raises ValueError or LookupError if one has no place.
    """
    written: dict[str, Any] = copy.deepcopy(dict(document))
    for path, value in values.items():
        *parents, last = path.split(".")
        section = functools.reduce(_section, parents, written)
        if not isinstance(section, dict):
            raise ValueError(path)
        section.setdefault(last, value)
    return written


def _section(place: Any, key: str) -> Any:
    if isinstance(place, list):
        return place[int(key)]
    return place.setdefault(key, {}) if isinstance(place, dict) else None


def changes(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Every difference, weaker ones first; empty for equal policies."""
    return tuple(
        sorted(
            [*_fields("", old.params, new.params), *_test(old.test, new.test)],
            key=lambda change: (not change.needs_approval, change.kind == "changed"),
        )
    )


def replaced(changes: Sequence[Change]) -> str | None:
    """Return a line if the task is replaced: other data, read by another loader. None if it is the same task."""
    data = next((change for change in changes if change.path == _DATA), None)
    if data is None or not any(_below(change.path, (_LOADER,)) for change in changes):
        return None
    return f"the task is replaced: {data.text}, and another {_LOADER} reads it"


def has(params: Params, path: str) -> bool:
    """Return whether there is a parameter at a path, such as evaluate.scorers.0.kind."""
    place: Any = params.resolved()
    for part in path.split("."):
        try:
            place = place[int(part) if isinstance(place, list) else part]
        except (LookupError, TypeError, ValueError):
            return False
    return True


def removed(path: str, old: JsonValue) -> Change:
    """Return the change by which a parameter is no longer there."""
    return _changed(path, old, None, "removed")


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}.") for place in places)


def _gates(old: Mapping[str, Gate], new: Mapping[str, Gate]) -> Iterator[Change]:
    gone = {name: gate for name, gate in old.items() if name not in new}
    come = {name: gate for name, gate in new.items() if name not in old}
    for name, gate in gone.items():
        path = f"gates.{name}"
        if heir := next((other for other, gate_keys in come.items() if gate_keys == gate), None):
            del come[heir]
            yield _change(path, name, heir, "renamed", f"{path} is now called {heir}")
        else:
            yield _whole(path, gate, None, f"{path} ({gate.kind})")
    for name, gate in come.items():
        path = f"gates.{name}"
        yield _whole(path, None, gate, f"{path} ({gate.kind})")
    for name in (name for name in old if name in new):
        yield from _fields(f"gates.{name}", old[name], new[name])


def _scorers(old: tuple[Scorer, ...], new: tuple[Scorer, ...]) -> Iterator[Change]:
    before, after = ({scorer.kind: scorer for scorer in scorers} for scorers in (old, new))
    for kind in before | after:
        path, one, two = f"{SCORERS}.{kind}", before.get(kind), after.get(kind)
        if one is None or two is None:
            yield _whole(path, one, two, path)
        elif one != two:
            yield _changed(path, one, two, "changed")
    if old[0].kind != new[0].kind:
        yield _change(
            SCORERS,
            old[0].kind,
            new[0].kind,
            "changed",
            f"{SCORERS}: the first, which is the score, changed from {old[0].kind} to {new[0].kind}",
        )


def _test(old: Digest | None, new: Digest | None) -> Iterator[Change]:
    shown = [(value or "").removeprefix("sha256:")[:12] for value in (old, new)]
    kind: ChangeKind = "added" if old is None else "removed" if new is None else "changed"
    texts = {
        "added": "there was no test set to compare with",
        "removed": "the test set is missing here",
        "changed": f"the test set changed from {shown[0]} to {shown[1]}",
    }
    if old != new:
        yield _change(TEST, old, new, kind, f"{TEST}: {texts[kind]}")


def _named(
    place: str, old: Mapping[str, Section], new: Mapping[str, Section], come: ChangeKind = "added"
) -> Iterator[Change]:
    """Yield the differences of sections by name. ``come``: the kind of change by which one has come."""
    for name in {**old, **new}:
        path, two = f"{place}.{name}", _plain(new.get(name))
        if name not in new:
            yield _whole(path, old[name], None, path)
        elif name not in old:
            grants = any(getattr(new[name], field, None) is not None for field in _GRANTS)
            yield _change(
                path, None, two, "changed" if grants else come, f"{path} is new: {_shown(two)}"
            )
        else:
            yield from _fields(path, old[name], new[name])


def _fields(path: str, old: Section, new: Section) -> Iterator[Change]:
    """Yield the differences of two sections, field by field, without exempt ones."""
    if type(old) is not type(new):
        kinds = [getattr(section, "kind", type(section).__name__) for section in (old, new)]
        yield _change(
            path,
            _plain(old),
            _plain(new),
            "changed",
            f"{path}: the kind changed from {kinds[0]} to {kinds[1]}",
        )
        return
    known = directions(type(old))
    for name, field in type(old).model_fields.items():
        key = f"{path}.{field.alias or name}".removeprefix(".")
        one, two = getattr(old, name), getattr(new, name)
        if key in EXEMPT or one == two:
            continue
        if key == SUITES:
            yield from _named(key, one, two)
        elif key == "gates":
            yield from _gates(one, two)
        elif key == SCORERS:
            yield from _scorers(one, two)
        elif key == ENVIRONMENTS or (key == SOURCES and one and two):
            yield from _named(key, one, two, "changed")
        elif isinstance(one, Section) and isinstance(two, Section):
            yield from _fields(key, one, two)
        elif kind := _kind(known.get(name), one, two):
            yield _changed(key, one, two, kind)


def _kind(stricter: Way | None, old: Any, new: Any) -> ChangeKind | None:
    """Return the kind of a field's change from ``old`` to ``new``; None if only the order of a list differs."""
    if stricter is None:
        return "changed"
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if stricter in ("higher", "lower"):
        return "stronger" if (new > old) == (stricter == "higher") else "weaker"
    come, gone = set(new) - set(old), set(old) - set(new)
    if come and gone:
        return "changed"
    if not come and not gone:
        return None
    return "stronger" if bool(come) == (stricter == "more") else "weaker"


def _changed(path: str, old: Any, new: Any, kind: ChangeKind) -> Change:
    """Return the change of a field from ``old`` to ``new``, as a person reads it."""
    before, after = _plain(old), _plain(new)
    verb = {"weaker": "weakened", "stronger": "tightened"}.get(kind, "changed")
    text = {
        "removed": f"is removed (was {_shown(before)})",
        "added": f"is added: {_shown(after)}",
    }.get(kind, f"{verb} from {_shown(before)} to {_shown(after)}")
    return _change(path, before, after, kind, f"{path} {text}")


def _whole(path: str, old: Section | None, new: Section | None, named: str) -> Change:
    """Return the change by which a whole section came or went; ``named``: how its text begins."""
    kind: ChangeKind = "added" if old is None else "removed"
    return _change(path, _plain(old), _plain(new), kind, f"{named} is {kind}")


def _change(path: str, old: JsonValue, new: JsonValue, kind: ChangeKind, text: str) -> Change:
    return Change(path=path, old=old, new=new, kind=kind, text=text)


def _plain(value: Any) -> JsonValue:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    plain: JsonValue = value.model_dump(mode="json") if isinstance(value, Section) else value
    return plain


def _shown(value: JsonValue) -> str:
    """On one line, whatever is in it."""
    return json.dumps(value)
