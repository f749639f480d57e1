"""A run's record whose models are real: the tiny base, and the same with another last layer."""

import shutil
from pathlib import Path

from checks.config.params import Params
from checks.formats.training_reports import MergedFile, ParityReport
from checks.storage import digest, files, layout
from tests import evidence_tree


def build(root: Path, params: Params, tiny_base: Path, by: float, base: float = 0.0) -> None:
    """As ``evidence_tree.build``; ``by`` and ``base`` are the sizes of the noise in the last layers."""
    evidence_tree.build(root, params)
    for folder, noise in ((layout.BASE, base), (layout.MERGED, by)):
        before = digest.of_tree(root / folder).digest
        shutil.rmtree(root / folder)
        shutil.copytree(tiny_base, root / folder)
        change(root / folder, noise)
        rename(root, before, digest.of_tree(root / folder).digest)
    merged = digest.of_tree(root / layout.MERGED).files
    parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    listed = {name: MergedFile(sha256=each.sha256, size=each.size) for name, each in merged.items()}
    files.write_json(root / layout.PARITY_REPORT, parity.model_copy(update={"files": listed}))


def change(folder: Path, by: float) -> None:
    """Add noise of size ``by`` to the last layer of a model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight += by * torch.randn_like(model.lm_head.weight)
    for path in folder.glob("model*"):
        path.unlink()
    model.save_pretrained(folder)


def rename(root: Path, before: str, after: str) -> None:
    """Let all reports be about the model with digest ``after``."""
    for path in (root / layout.REPORTS).rglob("*.json"):
        path.write_text(path.read_text().replace(before, after))
