"""build: adds the merged weights to a serving image, if the verdict is `pass` and is about these bytes.

It needs no Docker daemon and makes no copies: each layer is read once, hashed and stored in the same pass. Layers that
the store already has are not read. The same record gives the same digest on every machine.
"""

from pathlib import Path

from checks.config.release_params import Promote
from checks.formats.decoding import Decoding
from checks.formats.serving import ImageReport
from checks.process.errors import EvidenceRefused, Refusal
from checks.storage import files, layout
from release.image import assembly
from release.image import recipe as recipes
from release.image.assembly import Plan
from release.image.layout import Layout
from release.image.recipe import BuildOptions, Recipe
from release.image.weights import Cache
from release.ledger import Ledger
from release.record import committed_code
from release.record.records import Records
from release.record.verdict_check import passing

__all__ = ["BuildOptions", "Plan", "build", "plan"]

# Not in the image; reports name these digests, and the verdict covers the reports. The weights are hashed as they are
# read.
_NOT_HASHED = (layout.BASE, layout.ADAPTER, layout.RAW, layout.MERGED)
# Images of one environment that stay in a layout; where the ledger does not answer, all do.
_KEPT = 2


def plan(root: Path, options: BuildOptions) -> Plan:
    """Say what ``build`` would do, without writing anything.

    Raises as ``build``, except for faults in bytes that it does not read.
    """
    return assembly.planned(write_down(root, options), Cache(root / layout.LAYERS))


def build(root: Path, options: BuildOptions) -> ImageReport:
    """Build the image, store it, and write reports/image.json.

    Raises EvidenceRefused if the verdict does not hold, about other bytes or not committed; VerdictFailed or
    VerdictInconclusive if it is not ``pass``; BuildRefused if the base is not pinned or does not fit, or if the image
    would exceed a limit; RegistryRefused if a store does not accept or deliver a blob. The tag is set last: after a
    failure or a kill it is unchanged.
    """
    recipe, cache = write_down(root, options), Cache(root / layout.LAYERS)
    if isinstance(recipe.target, Layout):
        needed = _needed(root, recipe.params.promote)
        with recipe.target.held():
            report = assembly.assemble(recipe, cache)
            if needed is not None:
                recipe.target.keep(report.image, *needed)
    else:
        report = assembly.assemble(recipe, cache)
    files.write_json(root / layout.IMAGE_REPORT, report)
    return report


def decoding(root: Path) -> Decoding | None:
    """How the answers that the gates judged were sampled; None: greedily, or the server is told by serve.decoding."""
    params = Records(root).work_tree.params
    return None if params.serve.decoding else params.evaluate.decoding


def write_down(root: Path, options: BuildOptions) -> Recipe:
    """Check the verdict and its record, and find every part of the image. Raises as ``build``."""
    records = Records(root)
    record = passing(records, trusting=_NOT_HASHED)
    recipe = recipes.write_down(root, record, options)
    EvidenceRefused.raise_for(
        committed_code.differences(
            root, recipe.about.commit, record.params, records.work_tree.lock
        ),
        "commit the code, run `lockstep run`, and build from that record",
    )
    return recipe


def _needed(root: Path, promote: Promote) -> list[str] | None:
    """The images that environments run and those that a rollback would return to; None if that is unknown."""
    try:
        ledger = Ledger.open(root, promote)
        tip = ledger.tip()
        moves = [ledger.moves(tip, name) for name in promote.environments]
    except Refusal:
        return None
    ran = [[move.after.digest for move in line if move.ran and move.after] for line in moves]
    return [digest for line in ran for digest in list(dict.fromkeys(line))[:_KEPT]]
