"""The same sums on every x86-64 processor with AVX2, in bf16 too, and there at the speed of float32.

PyTorch chooses the order of its sums by what the processor can do, so that another processor trains other bytes.
``settle`` makes it choose as on a processor with AVX2 and no more. There PyTorch multiplies matrices of bf16 by a plain
loop, 25 times slower than in float32. So ``use`` has oneDNN multiply them in float32, and rounds each sum to bf16 once.

MKL remains for small products. Its mode COMPATIBLE is the only one that adds alike on processors of all vendors. In it,
MKL takes square roots, as AdamW does in each step, by an approximation that Intel and AMD built differently: another
processor would train other weights. So ``use`` has NumPy take them, which rounds the exact root once.
"""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

from checks.machine import arithmetic

# What PyTorch, oneDNN and MKL read when they are first used.
_CHOICES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
}
_FLASH = "_scaled_dot_product_flash_attention_for_cpu"


def settle() -> None:
    """Make libraries choose AVX2 in this process and those that it starts; call it before torch and NumPy are loaded.

    A processor without AVX2, or of another kind, keeps its own choices.
    """
    arithmetic.settle()
    if arithmetic.has_avx2():
        for name, choice in _CHOICES.items():
            os.environ.setdefault(name, choice)


@functools.cache
def use() -> None:
    """From now on, in every thread, multiply matrices of bf16 and float32 by oneDNN, and take exact square roots.

    Other formats, and machines where ``settle`` changes nothing, keep PyTorch's own kernels. The way is that of
    ``torch.library.get_kernel``'s documentation.
    """
    import torch

    if not (arithmetic.has_avx2() and torch.backends.mkldnn.is_available()):
        return
    library = torch.library.Library("aten", "IMPL")
    kernels: dict[str, Callable[..., Any]] = {
        "mm": _mm,
        "addmm": _addmm,
        "bmm": _bmm,
        "baddbmm": _baddbmm,
        "sqrt": _sqrt,
        _FLASH: _attention,
        f"{_FLASH}_backward": _attention_backward,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a kernel is replaced
        for name, kernel in kernels.items():
            library.impl(
                name,
                functools.partial(kernel, torch.library.get_kernel(f"aten::{name}", "CPU")),
                "CPU",
                with_keyset=True,
            )
    _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # A library that nobody holds takes its kernels back.


def _product(left: Any, right: Any) -> Any:
    """``left @ right`` of two matrices, in float32."""
    import torch

    rows = len(left)
    if rows == 1:  # oneDNN adds a single row in another order for each number of threads
        left = left.repeat(2, 1)
    linear = torch.ops.mkldnn._linear_pointwise.default
    return linear(left.float(), right.t().float(), None, "none", [], "")[:rows]


def _ours(*tensors: Any) -> bool:
    """Whether these are matrices that ``_product`` multiplies."""
    import torch

    kind = tensors[0].dtype
    return kind in (torch.bfloat16, torch.float32) and all(
        tensor.dtype == kind and tensor.numel() for tensor in tensors
    )


def _mm(before: Any, keys: Any, left: Any, right: Any) -> Any:
    if _ours(left, right):
        return _product(left, right).to(left.dtype)
    return before.call_boxed(keys, left, right)


def _addmm(
    before: Any, keys: Any, term: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1
) -> Any:
    if _ours(left, right, term):
        product = _product(left, right)
        product = product if alpha == 1 else product * alpha
        if beta:
            product = product + (term.float() if beta == 1 else term.float() * beta)
        return product.to(left.dtype)
    return before.call_boxed(keys, term, left, right, beta=beta, alpha=alpha)


def _bmm(before: Any, keys: Any, left: Any, right: Any) -> Any:
    return _in_float32(before, keys, left, right).to(left.dtype)


def _baddbmm(
    before: Any, keys: Any, term: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1
) -> Any:
    product = _in_float32(before, keys, term, left, right, beta=beta, alpha=alpha)
    return product.to(left.dtype)


def _sqrt(before: Any, keys: Any, numbers: Any) -> Any:
    import numpy as np
    import torch

    if numbers.dtype not in (torch.float32, torch.float64):
        return before.call_boxed(keys, numbers)
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.asarray(np.sqrt(numbers.detach().numpy())))


def _attention(
    before: Any, keys: Any, query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False,
    *, attn_mask: Any = None, scale: float | None = None,
) -> Any:  # fmt: skip
    attended, sums = _in_float32(
        before, keys, query, key, value, dropout, causal, attn_mask=attn_mask, scale=scale
    )
    return attended.to(query.dtype), sums  # the backward pass takes these sums in float32


def _attention_backward(
    before: Any, keys: Any, gradient: Any, query: Any, key: Any, value: Any, attended: Any, sums: Any,
    dropout: float, causal: bool, *, attn_mask: Any = None, scale: float | None = None,
) -> Any:  # fmt: skip
    gradients = _in_float32(
        before, keys, gradient, query, key, value, attended, sums, dropout, causal,
        attn_mask=attn_mask, scale=scale,
    )  # fmt: skip
    return tuple(part.to(query.dtype) for part in gradients)


def _in_float32(before: Any, keys: Any, *values: Any, **options: Any) -> Any:
    """Call a kernel of PyTorch with float32 in the place of bf16."""
    wide = {name: _widened(option) for name, option in options.items()}
    return before.call_boxed(keys, *map(_widened, values), **wide)


def _widened(value: Any) -> Any:
    import torch

    return value.float() if getattr(value, "dtype", None) is torch.bfloat16 else value
