"""Checks the record of a model: in the commit that the signed statement names, and in this checkout."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from checks.config.params import Params
from checks.decision import policy as policies
from checks.decision import policy_judgement
from checks.decision.held import refusal as verdict_refusal
from checks.formats import harvest, placeholder_cards
from checks.formats.statement import Release
from checks.formats.training_reports import ParityReport
from checks.formats.verdict import Verdict
from checks.kinds import plugins
from checks.kinds.gate import policy_digest
from checks.process.errors import EvidenceRefused
from checks.storage import digest, layout
from release.adapters import commits
from release.adapters.git import Git
from release.evidence import harvest_reviews, weights
from release.ledger import DEADLINE
from release.promotion.checklist import CheckResult, ImageRecord, PromotionContext
from release.promotion.environment import Promotion
from release.record import (
    committed_code,
    pipeline_lock,
    start_model,
    target_policy,
    verdict_check,
)
from release.record.records import Commit
from release.runtimes import lookup

# Not in the image. Reports name these digests, and the verdict covers the reports; the weights are checked separately.
TRUSTED = (layout.BASE, layout.ADAPTER, layout.RAW, layout.MERGED)
_R = TypeVar("_R", Verdict, ParityReport)


def find(
    context: PromotionContext, release: Release, excepted: Collection[str] = ()
) -> ImageRecord:
    """Read the record and compare every digest with the statement. Its verdict must be ``pass`` and about this model.

    ``excepted``: the gates that need not pass, because a valid exception names them.

    Raises EvidenceRefused with every mismatch, or ParamsRefused.
    """
    commit, made = release.commit, release.materials
    if not commits.is_ancestor(context.root, commit, context.trunk):
        todo = f"merge it, and sign the release again; a clone needs {context.target} with its whole history"
        raise EvidenceRefused(
            f"commit {commit[:12]} of its record is not in the history of {context.target}", todo
        )
    wanted = {
        layout.PARAMS: made.params, layout.LOCK: made.lock, layout.VERDICT: made.verdict,
        **{Path(name): value for name, value in made.reports.items()},
    }  # fmt: skip
    paths = [*dict.fromkeys((*wanted, layout.PARITY_REPORT, layout.PIPELINE))]
    there = context.records.at(commit)
    there.bring(paths)
    contents = {path: there.data(path) for path in paths}
    problems = [
        f"{path} at {commit[:12]}: {'is missing' if data is None else 'is not what was signed'}"
        for path in wanted
        if (data := contents[path]) is None or digest.of_bytes(data) != wanted[path]
    ]
    EvidenceRefused.raise_for(
        problems, "sign the release of a record that is committed: `lockstep sign`"
    )
    placeholder_cards.check(
        commits.read_many(context.root, commit, [*placeholder_cards.PLACEHOLDERS])
    )
    verdict = report(there, layout.VERDICT, Verdict)
    EvidenceRefused.raise_for(
        plugins.differences(verdict.plugins), "install the packages that it was judged with"
    )
    called = f"{layout.PARAMS} at {commit[:12]}"
    recorded = ImageRecord(there.params(called), {})
    lock = _whole(contents, commit, there.document(called))
    others = committed_code.differences(context.root, commit, recorded.params, lock, DEADLINE)
    EvidenceRefused.raise_for(
        others, "commit the code, run `lockstep run`, and release that record"
    )
    if refused := verdict_refusal(verdict, excepted):
        raise refused
    parity = report(there, layout.PARITY_REPORT, ParityReport)
    described = {
        name: digest.FileDigest(file.sha256, file.size) for name, file in parity.files.items()
    }
    EvidenceRefused.raise_for(_contradictions(release, verdict, described), "ask who signed it")
    return recorded._replace(files=described)


def _whole(
    found: Mapping[Path, bytes | None], commit: str, said: Mapping[str, Any]
) -> pipeline_lock.Stages:
    """The stages of dvc.lock, checked against dvc.yaml: a lock with stages removed would hide the code that ran."""
    at = f"at {commit[:12]}"
    pipeline, lock = (
        pipeline_lock.stages(found[path] or b"", f"{path} {at}")
        for path in (layout.PIPELINE, layout.LOCK)
    )
    # An earlier version may have read less of params.yaml.
    problems = [
        *pipeline_lock.incomplete(pipeline, lock, dict.fromkeys(pipeline_lock.READS, ())),
        *pipeline_lock.otherwise(said, lock),
    ]
    EvidenceRefused.raise_for(
        (f"{line} ({at})" for line in problems),
        "run `lockstep run`, commit that record, and release it",
    )
    return lock


def _contradictions(
    release: Release, verdict: Verdict, described: Mapping[str, digest.FileDigest]
) -> Iterator[str]:
    """Where the verdict or the merge report is about other bytes than the statement."""
    made, model, at = release.materials, release.image.model, release.commit[:12]
    judged = {path.as_posix(): value for path, value in (
        (layout.BASE, made.base), (layout.RAW, made.raw), (layout.ADAPTER, made.adapter), (layout.MERGED, model),
        *((layout.SPLITS / f"{name}.jsonl", value) for name, value in made.splits.items()),
    )}  # fmt: skip
    for path, value in (judged | made.reports).items():
        if verdict.judged.get(path) != value:
            yield f"{layout.VERDICT} at {at}: is about another {path} than the signed one"
    files_of_model = {name: file.sha256 for name, file in described.items()}
    for report_at, differs, what in (
        (layout.VERDICT, verdict.model != model, "is about another model than the signed one"),
        (layout.VERDICT, verdict.policy != release.policy, "is about another policy than the signed one"),
        (layout.PARITY_REPORT, digest.of_manifest(described) != model, "is about another model than the signed one"),
        (
            layout.PARITY_REPORT, files_of_model != weights.of_image(release.image),
            "lists other files than the signed ones",
        ),
    ):  # fmt: skip
        if differs:
            yield f"{report_at} at {at}: {what}"


def holds_here(promotion: Promotion, release: Release, result: CheckResult) -> None:
    """Check that the verdict holds in this checkout and under the target's policy, and is the signed one."""
    context, excepted = promotion.context, promotion.excepted
    verdict = verdict_check.hold(context.records, context.trunk, TRUSTED, reached=True)
    judgement = target_policy.judge_from(
        context.records, verdict, context.trunk, merging=False, excepted=excepted
    )
    if refused := policy_judgement.refusal(judgement, excepted):
        raise refused
    if judgement.approval and target_policy.unmerged_approvals(context.root, context.trunk):
        result.fail(
            f"{layout.APPROVALS}: is not as on {context.target}, and approves this policy",
            f"let its owners merge it to {context.target}",
        )
    result.note = judgement.headline.replace(context.trunk, context.target)
    made = release.materials
    signed = {
        layout.VERDICT: made.verdict,
        layout.PROBES: made.probes,
        **{Path(name): value for name, value in made.reports.items()},
        **{layout.SPLITS / f"{name}.jsonl": value for name, value in made.splits.items()},
    }
    for path, value in signed.items():
        if digest.of_file(context.root / path).sha256 != value:
            result.fail(
                f"{path}: is not what was signed",
                "check out the record of this image, or sign this one",
            )


def verdict_holds(promotion: Promotion, result: CheckResult) -> None:
    """Check that the verdict holds here too, before the first environment. Later ones rely on that."""
    release = promotion.release()
    previous = promotion.rule.after
    if previous is None:
        holds_here(promotion, release, result)
    else:
        result.note = f"it held when {previous} was moved; its record passes"


def _learned_what_was_erased(context: PromotionContext, commit: str) -> None:
    """Refuse a model that went on from one which learned a request that was erased. Raises EvidenceRefused."""
    gone = harvest_reviews.erased(commits.read(context.root, context.trunk, harvest.ERASED))
    if not gone:
        return
    sources = harvest_reviews.sources_with(context.root, gone, context.trunk, learned=True)
    for earlier in start_model.earlier(context.records, commit):
        lock = commits.read(context.root, earlier, layout.LOCK) or b""
        if any(source.encode() in lock for source in sources):
            raise EvidenceRefused(
                f"it went on from the model of commit {earlier[:12]}, which learned requests that were erased",
                "train without it: `lockstep start base`, then `./lockstep run`",
            )


def policy(promotion: Promotion, result: CheckResult) -> None:
    """Check that the verdict's policy is the target's, or one under which the target accepts this verdict.

    The whole policy counts: scorers, bounds on data and merge, and the bounds of `lockstep verify`. A stricter policy
    is accepted, and so are other inputs (base, data, serving image) that the target branch once had. The sections
    promote and sealed are always read from the target. ``verdict_holds`` judges it before the first environment.

    A team's file of a runtime is policy, too: it must be one that the target branch has or once had. So is who may sign
    harvested rows, and which judge may label them: the target's suites decide, as they are now.
    """
    context = promotion.context
    release = promotion.release()
    for name in dict.fromkeys((release.image.runtime, release.serving.runtime)):
        _runtime(context, release.commit, name, result)
    recorded = promotion.recorded.get()
    theirs = context.records.at(context.trunk).params(f"{context.target}:{layout.PARAMS}")
    harvest_reviews.check_commit(
        context.root,
        release.commit,
        recorded.params.data,
        theirs.suites,
        context.trunk,
        context.signers,
    )
    _learned_what_was_erased(context, release.commit)
    weaker = [change for change in _compared(theirs, recorded.params) if change.needs_approval]
    if any(change.is_input for change in weaker):
        had = [digest.of_bytes(data or b"") for data in _ever_had(context, layout.PARAMS)]
        weaker = [
            change for change in weaker if not (change.is_input and release.materials.params in had)
        ]
    if policy_digest(theirs.gates) == release.policy and not weaker:
        result.note = f"that of {context.target}"
        return
    here = context.root / layout.VERDICT
    is_here = here.is_file() and digest.of_file(here).sha256 == release.materials.verdict
    if not is_here or _compared(context.records.work_tree.params, recorded.params):
        result.fail(
            f"it was judged under another policy than {context.target} has now"
            + (f": against that, {weaker[0].text}" if weaker else ""),
            f"promote from a checkout of its record, commit {release.commit[:12]}, with its data "
            "(`./lockstep dvc pull`): it is judged again there",
        )
        return
    if promotion.rule.after is None:
        result.note = "checked with the verdict"
    else:
        holds_here(promotion, release, result)


def _compared(old: Params, new: Params) -> list[policies.Change]:
    """Changes of policy, without the sections promote and sealed."""
    changes = policies.changes(policies.of(old, None), policies.of(new, None))
    return [
        change for change in changes if change.path.partition(".")[0] not in ("promote", "sealed")
    ]


def _ever_had(context: PromotionContext, path: Path) -> list[bytes | None]:
    """Each content of a file that the target branch itself had, not only a branch that was merged into it."""
    places = [
        f"{commit}:./{path}" for commit in commits.touching(context.root, context.trunk, path)
    ]
    return Git(context.root, DEADLINE).named(places)


def _runtime(context: PromotionContext, commit: str, name: str, result: CheckResult) -> None:
    """Check that the team's file of a runtime was reviewed; a runtime that Lockstep ships has none."""
    data = lookup.data_at(context.root, commit, name)
    if data is None:
        return
    if why := lookup.shadows(name):
        result.fail(why, "rename the file, and build, verify and sign the image again")
        return
    path = lookup.path(name)
    if data == commits.read(context.root, context.trunk, path):
        return
    if data not in _ever_had(context, path):
        result.fail(
            f"{path} at {commit[:12]}: is not what {context.target} has or once had",
            f"let its owners merge it to {context.target}, and build, verify and sign the image again",
        )


def report(there: Commit, path: Path, kind: type[_R]) -> _R:
    """The report at ``path`` in a commit. Raises EvidenceRefused if it is missing or cannot be read."""
    unfit = "promote with the version of Lockstep that made it"
    return there.needed(path, kind, unfit, "sign the release again: `lockstep sign`")
