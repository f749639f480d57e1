"""Packages as users install them: a wheel built and installed by pip, or the same files written by hand (faster)."""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests import pipeline_repository
from tests.conftest import REPOSITORY


def by_pip(
    site: Path, work: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], files: Mapping[str, str]
) -> None:
    """Build a package of ``files`` and install it into the folder ``site``, without any network."""
    work.mkdir(parents=True)
    for path, text in files.items():
        (work / path).parent.mkdir(parents=True, exist_ok=True)
        (work / path).write_text(text)
    groups = "".join(
        f'[project.entry-points."{group}"]\n' + "".join(f'{kind} = "{value}"\n' for kind, value in kinds.items())
        for group, kinds in entry_points.items()
    )
    packages = sorted({path.split("/")[0] for path in files})
    (work / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n{groups}[tool.setuptools]\npackages = {packages}\n'
    )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(site), str(work)], check=True)


def by_hand(
    site: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    files: Mapping[str, str],
    recorded: bool = True,
) -> Path:
    """Write what pip would write for ``files``; without a RECORD of them unless ``recorded``. Returns the dist-info."""
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{kind} = {value}\n" for kind, value in kinds.items())
            for group, kinds in entry_points.items()
        )
    )
    if recorded:
        lines = io.StringIO()
        paths = [*files, *(f"{info.name}/{each}" for each in ("METADATA", "INSTALLER", "entry_points.txt", "RECORD"))]
        csv.writer(lines, lineterminator="\n").writerows([path, "", ""] for path in paths)
        (info / "RECORD").write_text(lines.getvalue())
    return info


def python(site: Path, code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in another interpreter that sees this Lockstep and the packages in ``site``."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{site}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment, cwd=cwd or site, capture_output=True, text=True, check=False,
    )  # fmt: skip


def forked(site: Path, code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Do the same in a process that is forked from one that has loaded the libraries."""
    environment = pipeline_repository.environment(PYTHONPATH=f"{REPOSITORY}{os.pathsep}{site}")
    command = pipeline_repository.script(code)
    return subprocess.run(command, env=environment, cwd=cwd or site, capture_output=True, text=True, check=False)
