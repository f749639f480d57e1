"""Section ``merge.quantization``: what ships has weights of 8 bits, and how far it may be from the 16-bit model."""

from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import Field

from checks.sections import Agreement, Section

UNQUANTISED: Final = "unquantised"  # the 16-bit model, among the models that answer and that gates compare with
_RULES_OUT_A_LOSS = ("non_inferior", "slice")
_GATE = f"{{kind: non_inferior, metric: METRIC, against: {UNQUANTISED}, margin: 0.02, confidence: 0.95}}"


class ExportQuantization(Section):
    """8 bits for each weight of a linear layer, one scale for each row; inputs are rounded to 8 bits token by token."""

    kind: Annotated[
        Literal["int8", "fp8"], Field(description="the numbers: whole ones, or floats with 4 bits of exponent (e4m3)")
    ]
    parity: Annotated[
        Agreement, Field(description="how closely it must agree with the 16-bit model; else merge refuses")
    ]


class Exporting(Protocol):
    """The section ``merge``, as far as gates may read it."""

    @property
    def quantization(self) -> ExportQuantization | None: ...


class _Params(Protocol):
    @property
    def merge(self) -> Exporting: ...
    @property
    def suites(self) -> Any: ...
    @property
    def gates(self) -> Any: ...


def problem(params: _Params) -> str | None:
    """Why suites and gates do not go with ``merge.quantization``, as "problem|remedy"; None if they do."""
    on = params.merge.quantization is not None
    asked = [f"suites.{name}" for name, suite in params.suites.items() if UNQUANTISED in suite.scores_of]
    if asked and not on:
        return (
            f"{asked[0]}: asks {UNQUANTISED}, and merge.quantization is null|remove it there, or set merge.quantization"
        )
    held = (gate for gate in params.gates.values() if gate.kind in _RULES_OUT_A_LOSS and gate.suite is None)
    if on and not any(gate.against == UNQUANTISED for gate in held):
        return (
            f"merge.quantization: no gate rules out a loss on the test rows|add gates.loses_nothing_in_8_bits: {_GATE}"
        )
    return None
