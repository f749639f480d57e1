"""Section ``merge.quantization``: what ships has weights of 8 or 4 bits, and how far from 16 bits it may be."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from checks.formats.report import UNQUANTISED
from checks.records.sections import Agreement, Positive, Section, problems
from checks.storage import layout

_RULES_OUT_A_LOSS = ("non_inferior", "slice")
_GATE = f"{{kind: non_inferior, metric: METRIC, against: {UNQUANTISED}, margin: 0.02, confidence: 0.95}}"


# Where LLM Compressor is, made by ``python -m stages.tools.compressor VERSION``; or the Python that a variable names.
COMPRESSOR = layout.STATE / "compressor"
COMPRESSOR_PYTHON = "LOCKSTEP_COMPRESSOR"
COMPRESSOR_VERSION = r"^[0-9][0-9a-z.]*$"
CALIBRATED: Final = ("gptq", "awq")  # kinds that LLM Compressor rounds
_CALIBRATION = "{version: 0.14.0.1, rows: 128, group: 64}"


class Calibration(Section):
    """How LLM Compressor rounds to 4 bits: on how many train rows, and in what groups."""

    version: Annotated[
        str,
        Field(
            pattern=COMPRESSOR_VERSION,
            description="version of llmcompressor; another installed version is refused",
        ),
    ]
    rows: Annotated[
        Positive,
        Field(description="how many rows of the train split, from its beginning, are used"),
    ]
    group: Annotated[
        Literal[32, 64, 128], Field(description="how many neighbouring weights share a scale")
    ]


class ExportQuantization(Section):
    """Fewer bits for each weight of a linear layer.

    ``int8`` and ``fp8``: 8 bits, one scale for each row; inputs are rounded to 8 bits token by token. ``gptq`` and
    ``awq``: 4 bits, one scale for each group of weights; inputs keep 16 bits.
    """

    kind: Annotated[
        Literal["int8", "fp8", "gptq", "awq"],
        Field(
            description="int8: whole numbers of 8 bits; fp8: floats of 8 bits, 4 of them the exponent (e4m3); gptq and "
            "awq: whole numbers of 4 bits, calibrated"
        ),
    ]
    calibration: Annotated[
        Calibration | None, Field(description="needed by gptq and awq, refused with other kinds")
    ] = None
    parity: Annotated[
        Agreement,
        Field(description="how closely it must agree with the 16-bit model; else merge refuses"),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        calibrated = self.kind in CALIBRATED
        return problems(
            (
                calibrated and self.calibration is None,
                f"calibration: {self.kind} needs it|add calibration: {_CALIBRATION}",
            ),
            (
                not calibrated and self.calibration is not None,
                f"calibration: {self.kind} is not calibrated|remove it, or use kind: {' or '.join(CALIBRATED)}",
            ),
        )


def problem(
    quantization: ExportQuantization | None, suites: Mapping[str, Any], gates: Mapping[str, Any]
) -> str | None:
    """Why suites and gates do not go with ``merge.quantization``, as "problem|remedy"; None if they do."""
    is_on = quantization is not None
    asked = [f"suites.{name}" for name, suite in suites.items() if UNQUANTISED in suite.scores_of]
    rules_out = any(
        gate.kind in _RULES_OUT_A_LOSS and gate.suite is None and gate.against == UNQUANTISED
        for gate in gates.values()
    )
    wrong = problems(
        (
            asked and not is_on,
            (
                f"{', '.join(asked[:1])}: asks {UNQUANTISED}, and merge.quantization is null|remove it there, "
                "or set merge.quantization"
            ),
        ),
        (
            is_on and not rules_out,
            (
                "merge.quantization: no gate rules out a loss on the test rows|add "
                f"gates.loses_nothing_in_8_bits: {_GATE}"
            ),
        ),
    )
    return next(wrong, None)
