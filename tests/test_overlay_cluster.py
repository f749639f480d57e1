"""What documentation offers around an environment in a cluster, held to schemas and to what a promotion accepts."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks import layout
from release.overlay import edits
from tests import kubernetes_tools, programs
from tests.conftest import REPOSITORY
from tests.overlay_sample import edit, lying, put, rendered

pytestmark = pytest.mark.slow

DOCS = REPOSITORY / "docs" / "how-to"


def examples(page: str, section: str) -> list[Any]:
    """Every YAML document of a section of a page."""
    text = (DOCS / page).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of release/environments with a release promoted to staging."""
    programs.require("kustomize")
    found = shutil.copytree(REPOSITORY / layout.ENVIRONMENTS, tmp_path / layout.ENVIRONMENTS)
    put(found, rendered())
    return found


def failures(tree: Path) -> list[str]:
    return edits.failures("staging", lying(tree), rendered(), ("staging", "production"))


def test_what_the_page_puts_beside_and_into_an_environment_is_valid_and_accepted(tree: Path) -> None:
    *beside, own = examples("environments.md", "What the cluster has beside it")
    assert [item["kind"] for item in beside] == ["Namespace", "PriorityClass"]
    for item in beside:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
    edit(tree, "staging", lambda value: value.update(own))
    assert failures(tree) == []
    items = kubernetes_tools.build(tree / "staging")
    pod = kubernetes_tools.pod(items)
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert (pod["priorityClassName"], pod["imagePullSecrets"]) == ("serving", [{"name": "registry"}])
    for item in items:
        kubernetes_tools.validate(item, kubernetes_tools.VERSIONS[0])
