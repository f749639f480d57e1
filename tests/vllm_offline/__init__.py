"""A stand-in of vLLM in an environment of its own, which is asked through the process and protocol of the product."""

import sysconfig
import venv
from pathlib import Path
from typing import Any

ENGINE: dict[str, Any] = {
    "kind": "vllm", "version": "0.32.0", "max_rows": 4, "kv_cache_gb": 0.5, "gpus": 1, "compiled": False,
    "batch_invariant": False,
}  # fmt: skip


def environment(folder: Path) -> Path:
    """Make the environment ``folder`` and return its Python. There, the stand-in is vllm 0.32.0+cpu."""
    venv.create(folder, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    paths = (Path(__file__).resolve().parent, sysconfig.get_paths()["purelib"])  # the second has tqdm
    (packages / "standin.pth").write_text("".join(f"{path}\n" for path in paths))
    about = packages / "vllm-0.32.0+cpu.dist-info" / "METADATA"
    about.parent.mkdir()
    about.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return folder / "bin" / "python"
