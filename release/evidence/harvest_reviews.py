"""The signed reviews of harvested rows. No source with harvested rows is trained on, or promoted, without one.

Beside labels/harvest/ENV.json lies ENV.intoto.json, the same review signed by a signer with the role ``harvest``.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from checks.config.data_sources import Data, FurtherSource
from checks.config.params import Params
from checks.formats import harvest
from checks.formats.harvest import Erased, HarvestedRow, Judged, Review
from checks.formats.signers import Signers
from checks.formats.statement import Harvest
from checks.kinds.suite import SuiteKind
from checks.process.errors import EvidenceRefused
from checks.storage import digest, files, layout
from release.adapters import commits
from release.evidence import statement, trust
from release.evidence.trust import Signatory

_LEVEL = 0.05  # The chance that a judge's true error lies above its bound.
Read = Callable[[Path], bytes | None]  # the bytes of a file in the repository; None: there is none


def signed_path(review: Path) -> Path:
    """Return where the signature of a review lies."""
    return review.with_suffix(".intoto.json")


def reviewed(data: Data) -> dict[str, FurtherSource]:
    """Return the sources with harvested rows, by name."""
    return {name: source for name, source in (data.sources or {}).items() if source.review}


def in_work_tree(root: Path) -> Read:
    """Return what reads files below ``root``."""
    return lambda path: (root / path).read_bytes() if (root / path).is_file() else None


def sign(root: Path, review: Review, rows: bytes, signatory: Signatory) -> Path:
    """Sign ``review`` beside its file. Raises EvidenceRefused if ``rows`` is not the source that it names."""
    path = review.path
    whole = digest.of_bytes(rows) == f"sha256:{review.sha256}"
    ids = sorted(HarvestedRow.model_validate_json(line).id for line in rows.splitlines() if whole)
    if ids != [origin.request for origin in review.origins]:
        raise EvidenceRefused(
            f"{path}: is not the review of {review.uri}",
            f"make both again: `lockstep harvest {review.environment} --split {review.split}`",
        )
    with files.replacing(root / signed_path(path)) as stream:
        stream.write(signatory.sign(statement.harvest(review)))
    return signed_path(path)


def erased(data: bytes | None) -> set[str]:
    """Return the digests of the requests that were erased, of the bytes of ``harvest.ERASED``."""
    return {Erased.model_validate_json(line).request for line in (data or b"").splitlines()}


def upper(judged: Judged) -> float:
    """Return the upper 95 % bound of the share of wrong answers among those that the judge calls right.

    It is that of Clopper and Pearson (1934); 1 without labels.
    """
    from scipy.special import betaincinv

    others = judged.labelled - judged.wrong
    return float(betaincinv(judged.wrong + 1, others, 1 - _LEVEL)) if others else 1.0


def judge_problem(judged: Judged, suites: Mapping[str, SuiteKind]) -> str | None:
    """Return why the judge may not label rows under these suites; None: it may."""
    suite = suites.get(judged.suite)
    most = getattr(suite, "harvest_error", None)
    place = f"suites.{judged.suite}"
    if suite is None or most is None:
        return f"{place}: has no harvest_error, so its judge may label no rows"
    if digest.of_json(suite.model_dump(mode="json")["judge"]) != judged.judge:
        return f"{place}.judge: is another judge than the one that labelled these rows"
    if (bound := upper(judged)) <= most:
        return None
    from checks.stats.assisted import (
        rows_to_see,
    )  # It imports numpy, which `status` and `promote` seldom need.

    return (
        f"{place}: people say that {judged.wrong} of {judged.labelled} answers that its judge calls right are wrong: "
        f"up to {bound:.1%} may be (95 % bound), and harvest_error is {most:.1%}; with none wrong it needs "
        f"{rows_to_see(most, _LEVEL)} labels"
    )


def check_work_tree(root: Path, params: Params) -> None:
    """Refuse harvested rows that nobody may train on. Raises EvidenceRefused with every reason."""
    if not reviewed(params.data):
        return
    read = in_work_tree(root)
    check(params, read, erased(read(harvest.ERASED)), trust.known(root))


def check_commit(root: Path, commit: str, params: Params, trunk: str, known: Signers) -> None:
    """As ``check_work_tree``, for the record in ``commit``. ``trunk``: the commit that says what was erased."""
    if reviewed(params.data):
        gone = erased(commits.read(root, trunk, harvest.ERASED))
        check(params, lambda path: commits.read(root, commit, path), gone, known)


def check(params: Params, read: Read, gone: Collection[str], known: Signers) -> None:
    """Hold each source of harvested rows to its review, and the review to its signature.

    ``gone``: digests of requests that were erased. Raises EvidenceRefused with every reason.
    """
    problems = [
        f"data.sources.{name}: {problem}"
        for name, source in reviewed(params.data).items()
        for problem in _problems(source, Path(f"{source.review}"), params.suites, read, gone, known)
    ]
    todo = "`lockstep harvest ENV` makes source and review, a person reads both, `lockstep harvest ENV --sign` signs"
    EvidenceRefused.raise_for(problems, todo)


def _problems(
    source: FurtherSource,
    path: Path,
    suites: Mapping[str, SuiteKind],
    read: Read,
    gone: Collection[str],
    known: Signers,
) -> Iterator[str]:
    contents = {name: read(name) for name in (path, signed_path(path))}
    if missing := [name for name, content in contents.items() if content is None]:
        yield f"{' and '.join(map(str, missing))}: missing"
        return
    written, signed = (contents[name] or b"" for name in (path, signed_path(path)))
    try:
        review = parse(written, path)
        verified = trust.verify(signed, known, "harvest", str(signed_path(path)))
        stated = statement.parse_as(verified.payload, str(signed_path(path)), Harvest)
    except EvidenceRefused as refused:
        yield refused.what
        return
    if review.path != path:
        yield f"{path}: is the review of {review.environment}, for {review.split}"
    if source.splits != (review.split,):
        yield f"{path}: its rows are for splits: [{review.split}] alone"
    if stated.predicate.review != review:
        yield f"{path}: is not what {verified.signer} signed"
    if review.sha256 != source.sha256:
        yield f"{path}: is about another source, sha256 {review.sha256[:12]}"
    if review.license != source.license:
        yield f"{path}: its licence is {review.license}, params.yaml says {source.license}"
    if review.judged and (problem := judge_problem(review.judged, suites)):
        yield problem
    if again := [origin for origin in review.origins if origin.request in gone]:
        yield f"{len(again)} of its {len(review.origins)} requests were erased"


def parse(data: bytes, path: Path) -> Review:
    """Parse a review. Raises EvidenceRefused if it is none."""
    try:
        return Review.model_validate_json(data)
    except ValidationError as error:
        raise files.unfit(str(path), error, "make it again: `lockstep harvest ENV`") from error


def sources_with(
    root: Path, requests: Collection[str], revision: str = "--all", *, learned: bool = False
) -> set[str]:
    """Return the SHA-256 of every source that had a row of one of ``requests``, by the reviews in a history of git.

    ``requests``: digests. ``learned``: only sources for training. What is no review is passed over: anybody who may
    push could have written it.
    """
    sources = set[str]()
    for data in commits.versions(root, layout.HARVESTS, revision):
        try:
            review = parse(data, layout.HARVESTS)
        except EvidenceRefused:
            continue
        if learned and review.split != "train":
            continue
        if any(origin.request in requests for origin in review.origins):
            sources.add(review.sha256)
    return sources
