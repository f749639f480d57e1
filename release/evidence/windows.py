"""The signed windows of production: reports of `lockstep watch`, signed on the machine that read the captures.

Each is a file of its own, reports/watch/ENV-DATE-MODEL.intoto.json, so that later windows replace none. Whoever may
sign a verification may sign a window, because both say what a running model did.
"""

from datetime import datetime
from pathlib import Path

from checks.formats.signers import Signers
from checks.formats.statement import Window
from checks.formats.watch_report import Costs, WatchReport
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.storage import files, layout
from release.evidence import statement, trust
from release.evidence.trust import Signatory

_ENDING = ".intoto.json"


class WindowCosts(Costs):
    """The costs of a window, and its time."""

    since: datetime
    until: datetime


def write(root: Path, report: WatchReport, signatory: Signatory) -> None:
    """Sign ``report``, and write it to ``path``. Raises MachineRefused if Sigstore cannot be reached."""
    with files.replacing(root / path(report)) as stream:
        stream.write(signatory.sign(statement.window(report)))


def path(report: WatchReport) -> Path:
    """Return where the signed ``report`` lies."""
    return layout.WATCH / _name(report.environment, f"{report.since:%Y-%m-%d}", report.model)


def _name(environment: str, day: str, model: str) -> str:
    return f"{environment}-{day}-{model.removeprefix('sha256:')[:12]}{_ENDING}"


def read(
    root: Path, known: Signers, model: str, names: str = f"*{_ENDING}"
) -> tuple[tuple[WatchReport, ...], list[str]]:
    """Return the signed windows of the weights ``model``, the latest first, and why other files do not count.

    ``names``: the glob of the files that are read.
    """
    reports, problems = list[WatchReport](), list[str]()
    for file in sorted((root / layout.WATCH).glob(names)):
        name = file.relative_to(root).as_posix()
        try:
            verified = trust.verify(file.read_bytes(), known, "verify", name, offline=True)
            report = statement.parse_as(verified.payload, name, Window).predicate.report
        except (EvidenceRefused, MachineRefused) as refused:
            problems.append(f"a window does not count: {refused.what}")
            continue
        except OSError as error:  # A link to nothing, or a folder.
            problems.append(f"a window does not count: {name}: {error.strerror}")
            continue
        if report.model == model:
            reports.append(report)
    return tuple(sorted(reports, key=lambda report: report.since, reverse=True)), problems


def costs(root: Path, environment: str, model: str) -> WindowCosts | None:
    """Return those of the latest signed window in which ``environment`` had a price and ran the weights ``model``."""
    if not (root / layout.WATCH).is_dir():
        return None
    try:
        reports, _ = read(root, trust.known(root), model, _name(environment, "*", model))
    except EvidenceRefused:  # Nobody may sign.
        return None
    priced = (
        WindowCosts(since=report.since, until=report.until, **report.costs.model_dump())
        for report in reports
        if report.environment == environment and report.costs is not None
    )
    return next(priced, None)
