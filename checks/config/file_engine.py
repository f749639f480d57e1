"""Says why parameters do not go with ``evaluate.engine.kind: llamacpp``, which answers from the GGUF file."""

from collections.abc import Iterator
from typing import Any, Protocol

from checks.formats.report import UNQUANTISED

_GATE = f"{{kind: non_inferior, metric: METRIC, against: {UNQUANTISED}, margin: 0.02, confidence: 0.95}}"


class _Params(Protocol):
    @property
    def merge(self) -> Any: ...
    @property
    def gates(self) -> Any: ...


def problems(params: _Params) -> Iterator[str]:
    """Yield each problem, as "problem|remedy"."""
    if not params.merge.export:
        yield (
            "evaluate.engine: llamacpp answers from the GGUF file, and merge.export is null|"
            "write merge.export (docs/how-to/gguf.md), or remove evaluate.engine"
        )
    if params.merge.quantization is not None:
        yield (
            "evaluate.engine: llamacpp answers from the GGUF file, so no gate would judge the weights of "
            "merge.quantization|remove one of the two"
        )
    if not any(
        gate.against == UNQUANTISED
        for gate in params.gates.values()
        if gate.kind in ("non_inferior", "slice") and gate.suite is None
    ):
        yield (
            "evaluate.engine: no gate rules out that the GGUF file lost on the test rows|"
            f"add gates.file_loses_nothing: {_GATE}"
        )
