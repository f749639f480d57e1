"""How fast GPUs can compute at most in 16 bits, and what share of that a training used.

The share is the model FLOP utilisation of Chowdhery et al. 2022 (arXiv:2204.02311, appendix B): operations that the
model needs, over what the device could do in the same time. Activations that gradient checkpointing computes again do
not count, nor does padding. Operations for a token are those of ``checks.training.cost``, 2 N (1 + b) + 6 A. The
passes of a reference model are left out, so the share of a method that has one is a lower bound.
"""

import re

# Operations a second in bf16 and fp16 with sums in fp32, without sparsity, by NVIDIA's data sheets. The first that
# matches counts.
_PEAKS = (
    (r"H200\b", 989e12),
    (r"H100 PCIe\b", 756e12),
    (r"H100\b(?! NVL)", 989e12),
    (r"A100\b", 312e12),
    (r"L40S\b", 362e12),
    (r"A40\b", 149.7e12),
    (r"L4\b", 121e12),
    (r"RTX 4090\b(?! D| Laptop)", 165.2e12),
)


def peak(device: str, precision: str) -> float | None:
    """Operations a second of the GPU with this name; None where it is not in the table, or in fp32."""
    if not device.startswith("cuda") or precision == "fp32":
        return None
    return next((most for pattern, most in _PEAKS if re.search(rf"\b{pattern}", device)), None)


def utilisation(tokens_per_second: float | None, flops_per_token: float, device: str, precision: str) -> float | None:
    """The share of the device's peak that was used; None where either is not known."""
    most = peak(device, precision)
    if most is None or tokens_per_second is None:
        return None
    return tokens_per_second * flops_per_token / most
