"""gate --policy-from: judges the work tree's evidence under another commit's policy too.

The gates, scorers and test set of that commit judge it again; ``checks.decision.policy_judgement`` says what then
counts. A parameter that its params.yaml does not write has the value that its code.lock says: the default of the
version that ran there, where this version may have a weaker one. Code owners approve a policy in
release/policy/approved.yaml, which only they may change.
"""

import dataclasses
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pydantic import AliasPath, BaseModel, Field, TypeAdapter, ValidationError

from checks.code import lock
from checks.config.params import Params
from checks.decision import policy, policy_judgement
from checks.decision.held import HeldVerdict
from checks.formats.evidence import Evidence
from checks.formats.verdict import Finding, Verdict, combine
from checks.kinds.gate import Reads, policy_digest
from checks.process.errors import EvidenceRefused, ParamsRefused, RemoteRefused
from checks.records.record import Digest
from checks.records.rows import Prediction, Row
from checks.storage import digest, files, layout, plain_yaml
from release.adapters import commits, dvc, projects
from release.record import earlier_models
from release.record.records import Commit, Records

_TEST = layout.SPLITS / "test.jsonl"
_KEPT = (layout.PREPARE_REPORT, layout.LOCK, layout.VERDICT)  # one of them is in every record
# DVC says this where a folder's list of files was never pushed.
_UNKEPT = "failed to load directory"


class _Prepared(BaseModel):
    """The fields that are read of a reports/prepare.json, which another version of Lockstep may have written."""

    schema_version: Literal[1]
    test: Digest = Field(validation_alias=AliasPath("splits", "test", "sha256"))


class _Theirs(NamedTuple):
    """The policy of a commit: parameters and test split, each None with a change that says why.

    The test split is None without such a change if no run was ever recorded.
    """

    params: Params | None
    test: Digest | None
    unreadable: tuple[policy.Change, ...]


def judge_from(
    records: Records,
    held: HeldVerdict,
    ref: str,
    *,
    merging: bool = True,
    excepted: Collection[str] = (),
) -> policy_judgement.PolicyJudgement:
    """Judge the evidence of ``held``, the verdict of the work tree, under the policy of ``ref`` too.

    ``merging``: the work tree's policy is proposed for ``ref``; False: only its model is. ``excepted``: the gates that
    a valid exception names. Raises EvidenceRefused if git has no ``ref`` or no params.yaml in it, or if the approvals
    cannot be read.
    """
    root, commit = records.root, records.target(ref)[1]
    assert commit is not None  # a name that is given and unknown is refused
    theirs = _theirs(records, ref, commit)
    mine = policy.of(held.params, held.evidence.judged.get(policy.TEST))
    approval = next((entry for entry in approvals(root) if entry.policy == mine.digest), None)
    target: Verdict | None = None
    changes, notes = theirs.unreadable, list[str]()
    if theirs.params is not None:
        old = policy.of(
            theirs.params, mine.test if _unreadable(theirs, layout.PREPARE_REPORT) else theirs.test
        )
        changes += policy.changes(old, mine)
        if theirs.test is None and not theirs.unreadable:
            notes.append(
                f"{ref} has no {layout.PREPARE_REPORT}: there was no test set yet, so this one is judged"
            )
        if old.digest == mine.digest:
            target = held.verdict
        else:
            target, more = _judged_as(root, ref, commit, held, theirs.params, old.test)
            notes += more
    weaker = any(change.needs_approval for change in changes)
    adopted = weaker and merging and _is_proposed(records, commit, mine)
    if weaker and merging and not adopted:
        notes.append(
            f"{ref} became stricter after this branch left it; to be judged by its policy alone, merge {ref}"
        )
    if weaker and approval and unmerged_approvals(root, commit):
        notes.append(
            f"{layout.APPROVALS} is not as on {ref}: this approval counts once a code owner has approved the file"
        )
    if merging:
        notes += _since_production(records, ref, commit, mine, changes)
    unused = merging and theirs.test is None and not theirs.unreadable
    unused = unused and not earlier_models.promoted(
        records, earlier_models.place(records, ref, commit)
    )
    status, why = policy_judgement.decided(
        ref, held.verdict, target, changes, approval, adopted, unused, excepted
    )
    headline = policy_judgement.headline(ref, changes, why)
    return policy_judgement.PolicyJudgement(
        ref=ref, commit=commit, status=status, headline=headline, policy=mine.digest,
        changes=changes, notes=tuple(notes), approval=approval, own=held.verdict, target=target,
    )  # fmt: skip


def approvals(root: Path) -> Sequence[policy_judgement.Approval]:
    """The entries of release/policy/approved.yaml, of the project and of the git root; empty if there is no such file.

    Raises EvidenceRefused if it is not a list of entries {policy, by, why}.
    """
    return [entry for home in projects.homes(root) for entry in _approvals(home)]


def unmerged_approvals(root: Path, commit: str) -> list[Path]:
    """Return the files with approvals that are not in ``commit`` as they are here, relative to ``root``."""
    homes = (home for home in projects.homes(root) if (home / layout.APPROVALS).exists())
    return [
        Path(os.path.relpath(home / layout.APPROVALS, root))
        for home in homes
        if commits.uncommitted(home, commit, [layout.APPROVALS])
    ]


def _approvals(root: Path) -> Sequence[policy_judgement.Approval]:
    todo = "write a list of entries, each with policy (sha256:…), by and why"
    try:
        for path in (
            root / layout.APPROVALS,
            *(root / folder for folder in layout.APPROVALS.parents[:-1]),
        ):
            if path.is_symlink():  # its owners would not be asked when what it points at changes
                raise EvidenceRefused(
                    f"{path.relative_to(root)}: is a link", "replace it with what it points at"
                )
        value = plain_yaml.load((root / layout.APPROVALS).read_text(encoding="utf-8"))
        return TypeAdapter(tuple[policy_judgement.Approval, ...]).validate_python(
            [] if value is None else value
        )
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise EvidenceRefused(f"{layout.APPROVALS}: {error.strerror}", todo) from error
    except ValidationError as error:
        raise EvidenceRefused(f"{layout.APPROVALS}: {files.first(error)}", todo) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8
        raise EvidenceRefused(f"{layout.APPROVALS}: is not YAML", todo) from error


def _theirs(records: Records, ref: str, commit: str) -> _Theirs:
    there, called = records.at(commit), f"{ref}:{layout.PARAMS}"
    if there.data(layout.PARAMS) is None:
        raise EvidenceRefused(
            f"{ref} ({commit[:12]}) has no {layout.PARAMS}",
            "name a commit of a repository that Lockstep runs in",
        )
    params, test, unreadable = None, None, list[policy.Change]()
    try:
        params, unreadable = _resolved(there, called, ref)
    except ParamsRefused as refused:
        unreadable.append(_cannot_be_read(layout.PARAMS, refused.what))
    try:
        prepared = there.report(layout.PREPARE_REPORT, _Prepared)
    except ValidationError as error:
        what = f"{ref}:{layout.PREPARE_REPORT}: {files.first(error)}"
        unreadable.append(_cannot_be_read(layout.PREPARE_REPORT, what))
        return _Theirs(params, None, tuple(unreadable))
    if prepared is not None:
        test = prepared.test
    elif had := next(
        (path for path in _KEPT if commits.touching(records.root, commit, path)), None
    ):
        what = f"{ref}:{layout.PREPARE_REPORT}: is missing, and {ref} once had {had}: its test set is not known"
        unreadable.append(
            policy.Change(
                path=layout.PREPARE_REPORT.as_posix(), old=None, new=None, kind="removed", text=what
            )
        )
    return _Theirs(params, test, tuple(unreadable))


def _resolved(there: Commit, called: str, ref: str) -> tuple[Params, list[policy.Change]]:
    """Return the parameters of a commit with the defaults of the version that ran there.

    The changes are defaults that this version does not have, or that are not known. Raises ParamsRefused if this
    version cannot read the parameters.
    """
    params = there.params(called)
    data = there.data(layout.CODE_LOCK)
    if data is None:
        never_ran = there.data(layout.LOCK) is None
        missing = _cannot_be_read(layout.CODE_LOCK, f"{ref}:{layout.CODE_LOCK}: is missing")
        return params, [] if never_ran else [missing]
    try:
        ran = lock.parse(data)
    except EvidenceRefused as refused:
        return params, [_cannot_be_read(layout.CODE_LOCK, f"{ref}:{refused.what}")]
    if ran.defaults is None:
        return params, _unknown(ran.lockstep, ref)
    here = policy.defaults(params)
    there_too = {path: value for path, value in ran.defaults.items() if path in here}
    gone = [
        policy.removed(path, value)
        for path, value in ran.defaults.items()
        if value is not None and not policy.has(params, path)
    ]
    differing = {path: value for path, value in there_too.items() if value != here[path]}
    return there.params_with(called, differing) if differing else params, gone


def _unknown(ran: lock.Installed, ref: str) -> list[policy.Change]:
    """Return that the defaults of the version that ``ref`` ran are not known, unless it is this version."""
    here = lock.installed()
    if ran == here:
        return []
    return [
        policy.Change(
            path=layout.CODE_LOCK.as_posix(),
            old=ran.version,
            new=here.version,
            kind="changed",
            text=f"{ref}:{layout.CODE_LOCK}: the defaults of Lockstep {ran.version} are not on record, and this is "
            f"{here.version}",
        )
    ]


def _is_proposed(records: Records, commit: str, mine: policy.Policy) -> bool:
    """Whether this branch itself asks for less than where it left the target: only that is what a merge brings.

    True if that cannot be told.
    """
    base = commits.merge_base(records.root, records.head, commit) if records.head else None
    if base is None or base == commit:
        return True
    theirs = _theirs(records, base[:12], base)
    if theirs.params is None or theirs.unreadable:
        return True
    return any(
        change.needs_approval
        for change in policy.changes(policy.of(theirs.params, theirs.test), mine)
    )


def _since_production(
    records: Records, ref: str, commit: str, mine: policy.Policy, changes: Collection[policy.Change]
) -> Iterator[str]:
    """A sentence on how much less this policy asks than the one that production's release was judged by.

    Inputs are left out, and so are ``changes``, those against the target: they are named already.
    """
    try:
        pointer = earlier_models.runs(records, earlier_models.place(records, ref, commit))
        if pointer is None:
            return
        theirs = _theirs(records, pointer.version, pointer.commit)
    except (EvidenceRefused, RemoteRefused) as refused:
        yield f"whether the policy became weaker since production's release is not known: {refused.what}"
        return
    if theirs.params is None or _unreadable(theirs, layout.CODE_LOCK):
        yield f"whether the policy became weaker since production's release is not known: {theirs.unreadable[0].text}"
        return
    known = {change.path for change in changes}
    weaker = [
        change
        for change in policy.changes(policy.of(theirs.params, theirs.test or mine.test), mine)
        if change.needs_approval and not change.is_input and change.path not in known
    ]
    if weaker:
        more = f" (and {len(weaker) - 1} more)" if len(weaker) > 1 else ""
        since = (
            f"since {pointer.version}, which production runs, the policy became weaker or different"
        )
        yield f"{since}: {weaker[0].text}{more}"


def _cannot_be_read(path: Path, what: str) -> policy.Change:
    return policy.Change(
        path=path.as_posix(),
        old=None,
        new=None,
        kind="changed",
        text=f"{what}: this version cannot read it, so nothing is judged under it",
    )


def _unreadable(theirs: _Theirs, path: Path) -> bool:
    return any(change.path == path.as_posix() for change in theirs.unreadable)


def _judged_as(
    root: Path, ref: str, commit: str, held: HeldVerdict, theirs: Params, test: Digest | None
) -> tuple[Verdict, list[str]]:
    """The verdict of the evidence under the gates and scorers of ``theirs``, on its test set."""
    from checks.decision import judging  # It imports numpy, and `status` reads only the approvals.

    evidence, notes = held.evidence, list[str]()
    why = ""  # gates cannot be asked
    # The gates that can be asked, by what they read.
    askable: tuple[Reads, ...] = ("no rows", "rows", "answers")
    if test is not None and test != held.evidence.judged.get(policy.TEST):
        brought = _rows_at(root, commit, test)
        if isinstance(brought, str):
            why, askable = f"the test rows of {ref} could not be brought: {brought}", ("no rows",)
        else:
            evidence, missing = _restricted(evidence, brought)
            if missing:
                why = f"{missing} of the {len(brought)} test rows of {ref} were not answered here"
                askable = ("no rows", "rows")
        notes.append(
            why or f"under the policy of {ref}, its own {len(evidence.test)} test rows are judged"
        )
    judged = {name: gate for name, gate in theirs.gates.items() if gate.reads in askable}
    scored = held.params.evaluate.model_copy(update={"scorers": theirs.evaluate.scorers})
    verdict = judging.judge(
        held.params.model_copy(update={"gates": judged, "evaluate": scored}), evidence
    )
    by_gate = {finding.gate: finding for finding in verdict.findings}
    findings = tuple(
        by_gate.get(name) or Finding(gate=name, kind=gate.kind, status="inconclusive", reason=why)
        for name, gate in theirs.gates.items()
    )
    update = {
        "findings": findings,
        "status": combine(findings),
        "policy": policy_digest(theirs.gates),
    }
    return verdict.model_copy(update=update), notes


def _rows_at(root: Path, commit: str, wanted: Digest) -> tuple[Row, ...] | str:
    """The test split of ``commit``, from DVC's cache or remote; or why it is not available."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / _TEST.name
        if why := dvc.get(root, commit, _TEST, path):
            return (
                "they are neither in DVC's cache here nor in its remote" if _UNKEPT in why else why
            )
        try:
            if (actual := digest.of_file(path).sha256) != wanted:
                return f"{_TEST} there is {actual}, its {layout.PREPARE_REPORT} says {wanted}"
            return tuple(files.read_jsonl(path, Row))
        except EvidenceRefused as refused:
            return refused.what.replace(str(path), _TEST.as_posix())


def _restricted(evidence: Evidence, rows: tuple[Row, ...]) -> tuple[Evidence, int]:
    """The evidence on ``rows`` alone, in their order, groups and slices; and the number of them without an answer.

    Rows are the same if id, messages, tools and reference are. If one is missing, only the rows change: it can still be
    checked what training has seen of them.
    """
    here = {row.id: (row.messages, row.tools, row.reference) for row in evidence.test}
    missing = sum(here.get(row.id) != (row.messages, row.tools, row.reference) for row in rows)
    if missing:
        return dataclasses.replace(evidence, test=rows), missing
    return dataclasses.replace(
        evidence,
        test=rows,
        answers={name: _of(rows, answers) for name, answers in evidence.answers.items()},
    ), 0


def _of(rows: tuple[Row, ...], answers: tuple[Prediction, ...]) -> tuple[Prediction, ...]:
    """The answers to ``rows``; empty if one is missing."""
    given = {answer.id: answer for answer in answers}
    if not all(row.id in given for row in rows):
        return ()
    return tuple(
        given[row.id].model_copy(update={"group": row.group, "slice": row.slice}) for row in rows
    )
