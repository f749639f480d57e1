"""What decides about a model, and whether one such policy asks for less than another.

Policy is every parameter, but for those that ``EXEMPT`` names with a reason: a new parameter is policy until somebody
declares that it is none. A field says itself which way it asks for more (``sections.stricter``). One that does not, or
that cannot be compared, counts as changed and so needs approval: another base, another serving image, another branch of
environments.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from checks import digest, layout
from checks.gates import Gate
from checks.identity import Digest
from checks.params import Params
from checks.release_params import Environment
from checks.rows import Record
from checks.scorers import Scorer
from checks.sections import Section, Way, directions

TEST = (layout.SPLITS / "test.jsonl").as_posix()  # the path of a change of test set
SCORERS = "evaluate.scorers"
ENVIRONMENTS = "promote.environments"

ChangeKind = Literal["weaker", "removed", "changed", "stronger", "added", "renamed"]

# Parameters that are no policy, with all that lies below them, and why.
EXEMPT: Mapping[str, str] = {
    "train": "It is what a pull request proposes. The gates judge the model that comes of it.",
    "prepare.seed": "It decides which rows are test rows. The test set is policy itself, by its digest.",
    "prepare.splits": "They decide how many rows are test rows. The test set is policy itself, by its digest.",
    "merge.base": "It decides what the adapter is added to. The gates judge the model that comes of it.",
    "merge.shard_mb": "It decides the sizes of the files that the weights lie in.",
    "evaluate.batch_tokens": "It decides the speed and the memory of evaluation. No margin may be below its noise.",
    "tracking": "It is where MLflow keeps what was logged. Nothing reads that.",
}

# What a model and its image are made of. A release that was made of others than the target branch has now is as good,
# if the target branch once had these: `lockstep promote` asks that.
INPUTS = ("base", "data", "prepare", "train_budget", "serve")
_NO_INPUTS = ("base.license", "data.license", "serve.probes", "serve.verify")  # below one, and must hold


class Change(Record):
    """One difference between two policies; ``old`` and ``new`` are null where there is none."""

    path: str  # as in params.yaml, such as gates.routes_well.at_least; or the test split's file
    old: JsonValue
    new: JsonValue
    kind: ChangeKind
    text: str  # one line for a person

    @property
    def needs_approval(self) -> bool:
        """Whether code owners must approve it: it asks for less, or for something else."""
        return self.kind in ("weaker", "removed", "changed")

    @property
    def is_input(self) -> bool:
        """Whether it is about what a model or an image is made of, and not about what must hold of them."""
        return _below(self.path, INPUTS) and not _below(self.path, _NO_INPUTS)

    @property
    def is_judged(self) -> bool:
        """Whether judging the same evidence under the old policy answers it.

        All else is no longer in the evidence: what earlier stages read and held, and what later verbs will.
        """
        return self.path == TEST or self.path.startswith(("gates.", SCORERS))


class Policy(NamedTuple):
    """All that decides about a model: the parameters, without what is exempt, and the test split (None: not known)."""

    params: Params
    test: Digest | None

    @property
    def digest(self) -> str:
        """What an approval names. A parameter that is off counts as one that is not there."""
        plain = self.params.model_dump(mode="json", by_alias=True, exclude_none=True)
        for path in EXEMPT:
            *parents, last = path.split(".")
            section: dict[str, Any] = plain
            for parent in parents:
                section = section[parent]
            del section[last]
        return digest.of_json({"params": plain, "test": self.test})


def of(params: Params, test: Digest | None) -> Policy:
    """The policy that ``params`` and the test split with digest ``test`` make."""
    return Policy(params, test)


def changes(old: Policy, new: Policy) -> tuple[Change, ...]:
    """Every difference, those that ask for less first; none for policies that ask the same."""
    found = [*_fields("", old.params, new.params), *_test(old.test, new.test)]
    return tuple(sorted(found, key=lambda change: (not change.needs_approval, change.kind == "changed")))


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}.") for place in places)


def _gates(old: Mapping[str, Gate], new: Mapping[str, Gate]) -> Iterator[Change]:
    gone = {name: gate for name, gate in old.items() if name not in new}
    come = {name: gate for name, gate in new.items() if name not in old}
    for name, gate in gone.items():
        path = f"gates.{name}"
        if heir := next((other for other, its in come.items() if its == gate), None):
            del come[heir]
            yield _change(path, name, heir, "renamed", f"{path} is now called {heir}")
        else:
            yield _change(path, gate.model_dump(mode="json"), None, "removed", f"{path} ({gate.kind}) is removed")
    for name, gate in come.items():
        path = f"gates.{name}"
        yield _change(path, None, gate.model_dump(mode="json"), "added", f"{path} ({gate.kind}) is added")
    for name in (name for name in old if name in new):
        yield from _fields(f"gates.{name}", old[name], new[name])


def _scorers(old: tuple[Scorer, ...], new: tuple[Scorer, ...]) -> Iterator[Change]:
    before, after = ({scorer.kind: scorer for scorer in scorers} for scorers in (old, new))
    for kind in before | after:
        path, one, two = f"{SCORERS}.{kind}", _plain(before.get(kind)), _plain(after.get(kind))
        if two is None:
            yield _change(path, one, two, "removed", f"{path} is removed")
        elif one is None:
            yield _change(path, one, two, "added", f"{path} is added")
        elif one != two:
            yield _change(path, one, two, "changed", _told(path, "changed", one, two))
    if old[0].kind != new[0].kind:
        text = f"{SCORERS}: the first, which is the score, changed from {old[0].kind} to {new[0].kind}"
        yield _change(SCORERS, old[0].kind, new[0].kind, "changed", text)


def _test(old: Digest | None, new: Digest | None) -> Iterator[Change]:
    if old == new:
        return
    if old is None:
        yield _change(TEST, None, new, "added", f"{TEST}: there was no test set to compare with")
    elif new is None:
        yield _change(TEST, old, None, "removed", f"{TEST}: the test set is not here")
    else:
        shown = [value.removeprefix("sha256:")[:12] for value in (old, new)]
        yield _change(TEST, old, new, "changed", f"{TEST}: the test set changed from {shown[0]} to {shown[1]}")


def _environments(old: Mapping[str, Environment], new: Mapping[str, Environment]) -> Iterator[Change]:
    for name in {**old, **new}:
        path, one, two = f"{ENVIRONMENTS}.{name}", _plain(old.get(name)), _plain(new.get(name))
        if name not in new:
            yield _change(path, one, None, "removed", f"{path} is removed")
        elif name not in old:
            yield _change(path, None, two, "changed", f"{path} is new: {_shown(two)}")
        else:
            yield from _fields(path, old[name], new[name])


def _fields(path: str, old: Section, new: Section) -> Iterator[Change]:
    """Differences of two sections, field by field, without what is exempt."""
    if type(old) is not type(new):
        kinds = [getattr(section, "kind", type(section).__name__) for section in (old, new)]
        text = f"{path}: the kind changed from {kinds[0]} to {kinds[1]}"
        yield _change(path, _plain(old), _plain(new), "changed", text)
        return
    known = directions(type(old))
    for name, field in type(old).model_fields.items():
        where = f"{path}.{field.alias or name}".removeprefix(".")
        one, two = getattr(old, name), getattr(new, name)
        if where in EXEMPT or one == two:
            continue
        if where == "gates":
            yield from _gates(one, two)
        elif where == SCORERS:
            yield from _scorers(one, two)
        elif where == ENVIRONMENTS:
            yield from _environments(one, two)
        elif isinstance(one, Section) and isinstance(two, Section):
            yield from _fields(where, one, two)
        elif kind := _kind(known.get(name), one, two):
            yield _change(where, _plain(one), _plain(two), kind, _told(where, kind, _plain(one), _plain(two)))


def _kind(stricter: Way | None, old: Any, new: Any) -> ChangeKind | None:
    """What a field's change from ``old`` to ``new`` is; None when only the order of a list differs."""
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


def _told(path: str, kind: ChangeKind, old: JsonValue, new: JsonValue) -> str:
    if kind == "removed":
        return f"{path} is removed (was {_shown(old)})"
    if kind == "added":
        return f"{path} is added: {_shown(new)}"
    verb = {"weaker": "weakened", "stronger": "tightened"}.get(kind, "changed")
    return f"{path} {verb} from {_shown(old)} to {_shown(new)}"


def _change(path: str, old: JsonValue, new: JsonValue, kind: ChangeKind, text: str) -> Change:
    return Change(path=path, old=old, new=new, kind=kind, text=text)


def _plain(value: Any) -> JsonValue:
    plain: JsonValue = value.model_dump(mode="json") if isinstance(value, Section) else value
    return list(plain) if isinstance(plain, tuple) else plain


def _shown(value: JsonValue) -> str:
    """On one line, whatever is in it."""
    return json.dumps(value)
