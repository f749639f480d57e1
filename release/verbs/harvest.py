"""harvest: captured requests with labels become a source of training or the test split, which a person signs.

Reads captures, labels, the splits and params.yaml. Writes the rows beside the captures, and the review and the pin of
the rows into the work tree, or into a pull request.
"""

from datetime import UTC, datetime
from pathlib import Path

from checks.config import params_file, starting
from checks.config.params import Params
from checks.evaluation import judge_error
from checks.formats import harvest as formats
from checks.formats.harvest import Review, Sampling, Split
from checks.gates.non_inferior import NonInferiorGate
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import digest, files, layout
from release.adapters import projects
from release.adapters.git import Git, has_repository
from release.evidence import harvest_reviews, keys, trust
from release.monitoring import harvest_judge, harvest_rows, harvest_splits, releases
from release.monitoring.store import CaptureStore
from release.monitoring.window import TimeSpan
from release.promotion import context
from release.record.records import Records
from release.review import harvest_pull
from release.review.proposals import Proposal
from release.verbs.history import moment

_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def harvest(
    root: Path, environment: str, *, split: Split = "train", rows: int | None = None, since: str | None = None,
    until: str | None = None, captures: str | None = None, license_name: str | None = None, consent: str | None = None,
    pr: bool = False, judge: str | None = None,
) -> tuple[Review, Proposal | None]:  # fmt: skip
    """Choose the rows, write them beside the captures, and write or propose their review and their pin.

    ``rows``: of a test split, drawn at random; None: as many as its gates need. ``since``, ``until``: as of `lockstep
    watch`; None: without a bound. ``captures``: None: those of this machine. ``license_name``, ``consent``: None: as in
    params.yaml and in the last review. ``judge``: a suite of kind judged, whose judge labels train rows too.

    Raises ParamsRefused for an unknown environment, or without a licence or consent; EvidenceRefused without a row, or
    if the splits are not here, or with too few rows for a test split; RemoteRefused as ``proposals.propose``.
    """
    text = (root / layout.PARAMS).read_text(encoding="utf-8")
    params = params_file.load(root / layout.PARAMS)
    releases.check_known(params, environment)
    name, _ = harvest_pull.source_name(text, environment, split)
    source = (params.data.sources or {}).get(name)
    path = formats.review_path(environment, split)
    before = files.read_json(root / path, Review) if (root / path).is_file() else None
    license_name = license_name or (source.license if source else None)
    consent = consent or (before.consent if before else None)
    if license_name is None or consent is None:
        raise ParamsRefused(
            f"harvest {environment}: nobody has said under which licence and consent its requests may be trained on",
            "name both: --license LicenseRef-Own --consent 'Terms of 2026-05, section 4'",
        )
    splits = harvest_splits.read(Records(root), name)
    now = datetime.now(UTC)
    span = TimeSpan(
        moment(since, now).start if since else _BEGIN, moment(until, now).start if until else now
    )
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    erased = harvest_reviews.erased(harvest_reviews.in_work_tree(root)(formats.ERASED))
    seed, needed = params.prepare.seed, rows_needed(params) if split == "test" else {}
    draw = harvest_rows.Draw(rows or max(needed.values()), seed) if needed else None
    chosen = harvest_rows.choose(
        store, environment, span, splits, params.prepare, erased, draw,
        harvest_judge.of(root, params, judge) if judge else None,
    )  # fmt: skip
    if chosen.judged and (problem := judge_error.problem(chosen.judged, params.suites)):
        raise EvidenceRefused(
            problem, "label requests that are drawn at random, or harvest without --judge"
        )
    if not chosen.rows:
        use = "test a model" if draw else "be trained on"
        why = "".join(
            f"; {count:,}: {harvest_rows.REASONS[name]}" for name, count in chosen.refused.items()
        )
        raise EvidenceRefused(
            f"{store.shown}: none of {chosen.labelled:,} requests with a label can {use}{why}",
            "store labels with `lockstep feedback FILE`, or name other captures with --captures",
        )
    if draw and len(chosen.rows) < draw.rows:
        plan = ", ".join(f"{gate} {count:,}" for gate, count in needed.items())
        raise EvidenceRefused(
            f"{store.shown}: {len(chosen.rows):,} requests can be test rows, and {draw.rows:,} are wanted ({plan})",
            f"wait for more labels, or take fewer with --rows {len(chosen.rows)}: such gates may be inconclusive",
        )
    data = formats.source_bytes(chosen.rows)
    sha256 = digest.of_bytes(data).removeprefix("sha256:")
    uri = _uri(root, store.keep(_name(environment, sha256), data))
    review = Review(
        environment=environment, since=span.since if since else None, until=span.until if until else None, uri=uri,
        sha256=sha256, license=license_name, consent=consent, compared=splits.compared, requests=chosen.requests,
        labelled=chosen.labelled, refused=chosen.refused, as_answered=chosen.as_answered,
        origins=tuple(
            formats.Origin(
                request=row.id, release=row.release, by="judge" if row.id in chosen.by_judge else None
            )
            for row in sorted(chosen.rows, key=lambda row: row.id)
        ),
        sampling=Sampling(seed=seed, needed=needed) if draw else None, judged=chosen.judged,
    )  # fmt: skip
    store.keep(*_copy(review))
    if pr:
        return review, harvest_pull.propose(
            root, review, chosen.examples, len(splits.train), now.date()
        )
    written = harvest_pull.files_of(review, text, harvest_reviews.in_work_tree(root)(path))
    for place, content in written.items():
        if content is None:
            (root / place).unlink(missing_ok=True)
        else:
            files.write_text(root / place, content.decode())
    return review, None


def rows_needed(params: Params) -> dict[str, int]:
    """Return the test rows that each gate with a margin needs, as `lockstep init` plans them, and those of validate.

    A model that is as good as the other then passes the gate with 80 % power.
    """
    shares = starting.models(params)
    planned = {
        f"gates.{name}": starting.rows_needed(gate.margin, shares, gate.confidence)
        for name, gate in params.gates.items()
        if isinstance(gate, NonInferiorGate) and gate.suite is None
    }
    return {**planned, "validate.min_rows.test": params.validate_.min_rows.test}


def sign(
    root: Path, environment: str, captures: str | None = None, key: Path | None = None,
    *, split: Split = "train",
) -> tuple[Path, str]:  # fmt: skip
    """Sign the review of ``environment`` for ``split``. Return the file of the signature, and the signer's name.

    Raises EvidenceRefused if there is no review, if it is not what `lockstep harvest` wrote beside the captures, if git
    has that copy, if the rows are gone or not those that it names, or if the key's owner lacks the role ``harvest``;
    and as ``context.check_signing``.
    """
    context.check_signing(root)
    signer = trust.signatory(key or root / keys.KEY, trust.known(root), "harvest")
    (own,) = signer.own("harvest")
    path = formats.review_path(environment, split)
    review = harvest_reviews.parse(harvest_reviews.in_work_tree(root)(path) or b"", path)
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    rows = store.read(_name(environment, review.sha256))
    name, data = _copy(review)
    if not store.has(name) or store.read(name) != data:
        raise EvidenceRefused(
            f"{path}: is not what `lockstep harvest` counted in {store.shown}",
            f"make it again: `lockstep harvest {environment} --split {split}`",
        )
    if tracked := _path_in_git(root, Path(captures or root / layout.CAPTURES) / name):
        raise EvidenceRefused(
            f"{tracked}: is in git, so the branch may have brought it, and not `lockstep harvest`",
            f"`git rm` it, and make the review again: `lockstep harvest {environment} --split {split}`",
        )
    return harvest_reviews.sign(root, review, rows, signer), own.name


def _path_in_git(root: Path, file: Path) -> Path | None:
    """Return the path below the git root of a file that git's index has, through whatever links; None if it has not.

    Git writes over ignored files, so a branch can bring some of them, too.
    """
    top, real = projects.top(root).resolve() if has_repository(root) else None, file.resolve()
    if top is None or not real.is_relative_to(top):
        return None
    path = real.relative_to(top)
    return path if Git(top, None).ask("ls-files", "--", f":(literal){path.as_posix()}") else None


def _copy(review: Review) -> tuple[str, bytes]:
    """Return the name and the bytes of a review's copy beside its rows."""
    data = f"{review.model_dump_json()}\n".encode()
    digits = digest.of_bytes(data).removeprefix("sha256:")
    rows = _name(review.environment, review.sha256).removesuffix(".jsonl")
    return f"{rows}.{digits[:32]}.review.jsonl", data


def _name(environment: str, sha256: str) -> str:
    return f"{formats.FOLDER}/{environment}-{sha256[:12]}.jsonl"


def _uri(root: Path, address: str) -> str:
    """Return the address of the source as params.yaml writes it: a path of this machine is relative to the root."""
    if "://" in address:
        return address
    path, top = Path(address).resolve(), root.resolve()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_uri()
