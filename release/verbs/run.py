"""run: the pipeline through DVC, to a verdict."""

from pathlib import Path

from checks.errors import RemoteRefused
from release.adapters import dvc
from release.record import references
from release.record.records import Records


def run(root: Path, targets: tuple[str, ...], force: bool, remote: bool = False) -> None:
    """Hold local sources to their pins, ask git which earlier models there are, then run ``dvc repro``.

    It runs what changed, or with ``force`` everything. DVC tracks params.yaml and not the local files that it names:
    an edited one would be passed over without a word. One that is absent is left to fetch, if that has to run.

    ``remote``: outputs that dvc.lock names are taken from the DVC remote first, and what was made here is put there,
    also when a later stage refuses. Where no remote is set there is nothing to share, and nothing is.

    What runs may make another model than the one that the references were kept for: then it is compared again.

    Raises StageRefused with the stage's exit code, MachineRefused when DVC itself cannot run, EvidenceRefused when git
    cannot say which models were released before, RemoteRefused when the DVC remote does not take what was made.
    """
    dvc.python(root, ["-m", "stages.sources.still_pinned"], "the look at local sources")
    references.write(Records(root))
    shared = remote and dvc.has_remote(root)
    if shared:  # what the remote lacks or does not give is made again: its lines say so, and the push asks it once more
        dvc.dvc(root, "pull", "--allow-missing", *(["--with-deps"] if targets else []), "--", *targets)
    arguments = ["-m", "dvc", "repro", *(["--force"] if force else []), "--", *targets]
    try:
        dvc.python(root, arguments, "dvc repro", {dvc.REMOTE: "1"} if shared else {})
        if references.write(Records(root)).changed:
            dvc.python(root, ["-m", "dvc", "repro", "--", *targets], "dvc repro", {dvc.REMOTE: "1"} if shared else {})
    except dvc.StageRefused:
        if shared:
            dvc.dvc(root, "push")
        raise
    if shared and (code := dvc.dvc(root, "push", *(["--with-deps"] if targets else []), "--", *targets)):
        raise RemoteRefused(
            f"dvc push ended with {code}", "read its lines above; when the remote takes it: dvc push, then go on"
        )
