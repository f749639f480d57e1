"""A STAND-IN process for ``vllm serve``: the labelled stand-in, at the port and with the adapters that are named.

    vllm serve MODEL --port=PORT --max-model-len=TOKENS … --lora-modules NAME=FOLDER NAME=FOLDER …

An adapter answers by the bytes in its folder, whatever it is called. ``install`` puts the program beside a Python.
"""

import json
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checks.formats.serving import Probe, ProbeReport
from checks.records.rows import Prediction
from checks.storage import digest, files
from tests.conftest import REPOSITORY
from tests.vllm_standin import VllmStandIn


def install(folder: Path, adapters: Mapping[Path, Path], predictions: Path) -> Path:
    """Write the program, and return the Python beside it.

    ``adapters``: the offline answers of each, as probes.json has them; ``predictions``: to the rows, of all.
    """
    known = {digest.of_tree(adapter).digest: str(probes) for adapter, probes in adapters.items()}
    program = folder / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(REPOSITORY)!r})\nfrom tests import vllm_process\n"
        f"vllm_process.main({json.dumps(known)}, {str(predictions)!r})\n"
    )
    program.chmod(0o755)
    return program.with_name("python")


def main(known: dict[str, str], predictions: str) -> None:
    """Serve until SIGTERM."""
    _, _, model, *arguments = sys.argv
    options = dict(argument.partition("=")[::2] for argument in arguments)
    modules = dict(word.split("=", 1) for word in arguments[arguments.index("--lora-modules") + 1 :])
    rows = {row.prompt: row.prediction for row in files.read_jsonl(Path(predictions), Prediction)}
    longest = int(options["--max-model-len"])

    def made(folder: str) -> VllmStandIn:
        return VllmStandIn(_answers(known, folder), rows, str(Path(folder).parent), longest)

    others = {name: made(folder) for name, folder in modules.items()}
    VllmStandIn.port = int(options["--port"])
    name = next(iter(modules))
    server: Any = VllmStandIn(_answers(known, modules[name]), rows, model, longest)
    server.name, server.lora, server.slots = name, "loaded", int(options["--max-loras"])
    server.others |= {other: standin for other, standin in others.items() if other != name}
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.terminate(30)


def _answers(known: dict[str, str], folder: str) -> tuple[Probe, ...]:
    probes = known[digest.of_tree(Path(folder)).digest]
    return files.read_json(Path(probes), ProbeReport).probes
