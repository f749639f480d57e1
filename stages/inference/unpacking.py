"""Makes a model of 8 or 4 bits ready to compute."""

from typing import Any


def unpacked(model: Any) -> Any:
    """``model``; compressed-tensors would otherwise unpack its weights in its first forward pass.

    Several threads may take that pass at once. What is not quantised is returned as it is.
    """
    if quantizer := getattr(model, "hf_quantizer", None):
        quantizer.compressor.decompress_model(model)
    return model
