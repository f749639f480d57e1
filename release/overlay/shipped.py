"""The folders that environments share: base and components. Their files are data of this package.

A repository has those that its environments use, written by `lockstep render`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

from checks.storage import digest, layout
from checks.storage.digest import FileDigest
from release.overlay.environment_file import EnvironmentFile
from release.overlay.overlays import SHARED

Files = Mapping[Path, bytes | None]

_DATA = Path(__file__).parents[1] / layout.ENVIRONMENTS.name
_BASE, _COMPONENTS = SHARED
# The digests (`digest.of_tree`) of the folders of earlier versions. Clusters run them until somebody renders again.
# Whoever changes a shared folder adds the digest that it has in the last released version.
EARLIER = {
    # 0.1.0: base, canary, exposure, gateway, kserve, rollout
    "sha256:669774e9618cc730bd1c4c1aa070b70818a2ddcf9598ab387c6901976db3fbfb",
    "sha256:ba690cc8cfe698d9b0a18a74b5976aeab394106184ba8edc21eef0059ac07faf",
    "sha256:f2d360f656b2e127069a1a1f5ec500812c9a6709b9036d1c266a1d95f5c64a17",
    "sha256:a81a2279507e299b9f68bb98496319b9bc445617f79ed5d1cfe1a78e33688adf",
    "sha256:0dbd852bde661c259516a474e8163f33a631d3a4abc59814f929ff0f82194c66",
    "sha256:eb89a4d7cef16bfb8943d9d28d467bd7dc1880783550d74f90d5cd3ceaa5b071",
}


@functools.cache
def folders() -> Mapping[Path, Mapping[Path, bytes]]:
    """Return the files of each shared folder of this version, by path in a repository."""
    homes = [_DATA / _BASE, *sorted((_DATA / _COMPONENTS).iterdir())]
    return {
        layout.ENVIRONMENTS / home.relative_to(_DATA): {
            layout.ENVIRONMENTS / path.relative_to(_DATA): path.read_bytes()
            for path in sorted(home.rglob("*.yaml"))
        }
        for home in homes
    }


def files(file: EnvironmentFile) -> Mapping[Path, bytes]:
    """Return the shared files that an environment with these knobs uses, by path in a repository."""
    names = [_BASE, *(f"{_COMPONENTS}/{name}" for name in (*file.components, file.variant))]
    used = {layout.ENVIRONMENTS / name for name in names}
    return {
        path: data
        for folder, content in folders().items()
        if folder in used
        for path, data in content.items()
    }


def below(folder: Path, committed: Files) -> Files:
    """Return the files that a repository has in a folder."""
    return {path: data for path, data in committed.items() if folder in path.parents}


def earlier(committed: Files) -> dict[Path, Files]:
    """Return the shared folders that a repository has as an earlier version of Lockstep had them, with their files."""
    contents = {folder: below(folder, committed) for folder in folders()}
    return {folder: files for folder, files in contents.items() if _is_earlier(folder, files)}


def _is_earlier(folder: Path, content: Files) -> bool:
    manifest = {
        path.relative_to(folder).as_posix(): FileDigest(digest.of_bytes(data), len(data))
        for path, data in content.items()
        if data is not None
    }
    return len(manifest) == len(content) and digest.of_manifest(manifest) in EARLIER
