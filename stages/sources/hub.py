"""A snapshot of a model hub's repository, through huggingface_hub.

The hub's address and token come from the usual environment (HF_ENDPOINT, HF_TOKEN, or a stored login).
"""

import glob
from pathlib import Path

from checks import layout
from checks.errors import MachineRefused, SourceRefused
from stages.sources import uris


def download(hub: uris.Hub, work: Path, field: str) -> tuple[Path, bool]:
    """Bring the snapshot (or the file or folder inside it) below ``work``; return its path, and whether an
    earlier run's files were continued.

    Raises SourceRefused when the hub cannot be reached, or has no such repository, revision or path;
    MachineRefused without huggingface_hub.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise MachineRefused("huggingface_hub is not installed", "pip install '.[pipeline]'") from error
    place = f"{layout.PARAMS}: {field}: {hub.kind} {hub.repository}@{hub.revision}"
    content = work / "content"
    continued = content.exists()
    content.mkdir(exist_ok=True)
    try:
        # Asked first: without an answer snapshot_download would take an unfinished folder for the snapshot.
        ask = HfApi().dataset_info if hub.kind == "dataset" else HfApi().model_info
        info = ask(hub.repository, revision=hub.revision)
        names = {sibling.rfilename for sibling in info.siblings or ()}
        wanted = {name for name in names if hub.inside is None or f"{name}/".startswith(f"{hub.inside}/")}
        if not wanted:
            raise SourceRefused(f"{place}: holds no {hub.inside or 'file'}", "name a path that the repository has")
        if bad := sorted(name for name in wanted if not uris.is_safe(name)):
            raise SourceRefused(f"{place}: holds {bad[0]!r}, which leaves its folder", "choose another repository")
        only = None if hub.inside is None else [glob.escape(hub.inside), glob.escape(hub.inside) + "/*"]
        snapshot_download(hub.repository, repo_type=hub.kind, revision=info.sha, local_dir=content, allow_patterns=only)
    except SourceRefused:
        raise
    except Exception as error:  # the hub, its HTTP client and its transfer library raise anything
        raise SourceRefused(
            f"{place}: {uris.reason(error, '')}",
            "check name, revision and network, and HF_TOKEN for a private or gated one; then run it again to go on",
        ) from error
    if missing := sorted(name for name in wanted if not (content / name).is_file()):
        raise SourceRefused(f"{place}: {len(missing)} files did not arrive, such as {missing[0]}", "run it again")
    for path in content.rglob("*"):  # of another revision, from a run that was interrupted
        if path.is_file() and path.relative_to(content).as_posix() not in wanted:
            path.unlink()
    return (content if hub.inside is None else content / hub.inside), continued
