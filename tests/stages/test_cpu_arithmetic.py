"""Sums on a CPU: right by float64, and the same bytes for any number of threads and on an emulated Intel processor."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stages import cpu_arithmetic
from tests import programs

pytestmark = pytest.mark.slow

SHAPES = [(1, 576, 192), (7, 16, 576), (33, 192, 49)]

# What chooses the order of sums, were it set where the tests run.
CHOICES = {
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES",
    "OPENBLAS_CORETYPE",
}

# Prints, for each number of threads, one digest of all that two layers compute, forward and backward, and of a single row,
# with square roots, and with functions of NumPy that have others for AVX-512.
PROGRAM = """
import hashlib, sys
from stages import cpu_arithmetic
cpu_arithmetic.settle()
import numpy
import torch
from torch import nn
cpu_arithmetic.use()

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.ahead, self.gate = nn.RMSNorm(64), nn.Linear(64, 192, bias=False), nn.Linear(64, 192)
        self.out = nn.Linear(192, 64)

    def forward(self, hidden, mask):
        width = hidden.shape[1]
        heads = self.norm(hidden).reshape(-1, width, 4, 16).transpose(1, 2)
        seen = nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
        hidden = hidden + seen.transpose(1, 2).reshape(-1, width, 64)
        return hidden + self.out(nn.functional.silu(self.gate(hidden)) * self.ahead(hidden))

def digest(threads):
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    embedding, first, second = nn.Embedding(97, 64), Layer(), Layer()
    model = nn.ModuleList([embedding, first, second]).bfloat16()
    ids = torch.arange(3 * 23).reshape(3, 23) % 97
    mask = torch.full((23, 23), float("-inf")).triu(1).bfloat16()
    computed = hashlib.sha256()

    def logits(ids, mask):
        found = second(first(embedding(ids), mask), mask) @ embedding.weight.t()
        computed.update(found.detach().float().numpy().tobytes())
        return found

    for _ in range(2):
        loss = nn.functional.cross_entropy(logits(ids, mask).flatten(0, 1).float(), ids.flatten())
        loss.backward()
        for weight in model.parameters():
            computed.update(weight.grad.float().numpy().tobytes())
            weight.data -= weight.grad
    logits(ids[:1, :1], mask[:1, :1])
    numbers = torch.rand(4096, generator=torch.Generator().manual_seed(2))
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        computed.update(numbers.to(kind).sqrt().double().numpy().tobytes())
    exact = numbers.double().numpy()
    for change in (numpy.exp, numpy.log, numpy.log1p, numpy.log2, numpy.cbrt, numpy.arctan):
        computed.update(change(exact).tobytes())
    square = exact.reshape(64, 64)
    for product in (exact**1.7, square @ square, numpy.linalg.norm(square)):
        computed.update(product.tobytes())
    return computed.hexdigest()

for threads in map(int, sys.argv[1:]):
    print(digest(threads))
"""


@pytest.fixture(autouse=True)
def used() -> None:
    cpu_arithmetic.use()


def drawn(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_rounded_once(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Each number is the exact one, rounded to bf16 once; sums in float32 may round a tie the other way."""
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("rows", "inner", "columns"), SHAPES)
def test_a_product_of_bf16_is_that_of_float64_rounded_once(rows: int, inner: int, columns: int, turned: bool) -> None:
    left, right = drawn(rows, inner).bfloat16(), drawn(columns, inner, seed=4).bfloat16().t()
    if turned:
        left, right = left.t().contiguous().t(), right.contiguous()
    term = drawn(columns, seed=5).bfloat16()
    exact = left.double() @ right.double()
    assert_rounded_once(left @ right, exact)
    assert_rounded_once(torch.addmm(term, left, right), exact + term.double())
    scaled = torch.addmm(term, left, right, beta=0.5, alpha=2)
    assert_rounded_once(scaled, 2 * exact + 0.5 * term.double())
    pair, pairs = torch.stack([left, left]), torch.stack([right, right])
    assert_rounded_once(pair @ pairs, torch.stack([exact, exact]))
    added = torch.baddbmm(term.expand(2, rows, columns), pair, pairs)
    assert_rounded_once(added, torch.stack([exact, exact]) + term.double())


def test_attention_of_bf16_is_that_of_float64() -> None:
    parts = [drawn(2, 3, 19, 16, seed=seed).bfloat16().requires_grad_() for seed in range(3)]
    mask = torch.zeros(2, 1, 19, 19).masked_fill(drawn(2, 1, 19, 19, seed=9) > 1, float("-inf"))
    exact_parts = [part.detach().double().requires_grad_() for part in parts]
    attention = torch.nn.functional.scaled_dot_product_attention
    found = attention(parts[0], parts[1], parts[2], attn_mask=mask.bfloat16())
    exact = attention(exact_parts[0], exact_parts[1], exact_parts[2], attn_mask=mask.double())
    assert_rounded_once(found, exact)
    found.sum().backward()
    exact.sum().backward()
    for part, exact_part in zip(parts, exact_parts, strict=True):
        assert part.grad is not None
        assert exact_part.grad is not None
        torch.testing.assert_close(part.grad.double(), exact_part.grad, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("kind", [torch.float64, torch.int64, torch.float16])
def test_other_numbers_are_computed_as_before(kind: torch.dtype) -> None:
    left, right = (drawn(5, 4) * 4).to(kind), (drawn(4, 6) * 4).to(kind)
    torch.testing.assert_close((left @ right).double(), left.double() @ right.double(), rtol=0.01, atol=0.1)
    assert (left[:0] @ right).shape == (0, 6)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_square_root_is_exact(kind: torch.dtype) -> None:
    """``math.sqrt``, by the C library, is the outsider. It rounds once, and another time to float32, which changes none."""
    numbers = drawn(3000).abs().to(kind)
    exact = torch.tensor([math.sqrt(number) for number in numbers.tolist()], dtype=torch.float64).to(kind)
    assert torch.equal(numbers.sqrt(), exact)
    assert torch.equal(numbers.reshape(30, 100).t().sqrt(), exact.reshape(30, 100).t())
    assert (numbers[0].sqrt() == exact[0]).all()
    assert numbers[0].sqrt().shape == ()
    assert torch.tensor([-1.0], dtype=kind).sqrt().isnan().all()


def test_a_square_root_has_a_gradient() -> None:
    number = torch.tensor([4.0, 9.0], requires_grad=True)
    number.sqrt().sum().backward()
    assert number.grad is not None
    assert torch.equal(number.grad, torch.tensor([0.25, 1 / 6]))


def test_products_without_numbers_are_zeros() -> None:
    assert torch.equal(torch.zeros(3, 0).bfloat16() @ torch.zeros(0, 2).bfloat16(), torch.zeros(3, 2).bfloat16())
    assert (torch.zeros(0, 4).bfloat16() @ torch.zeros(4, 2).bfloat16()).shape == (0, 2)


def computed(*threads: int, emulator: Sequence[str] = ()) -> list[str]:
    """The program's digests, by so many threads; ``emulator``: a command that runs another's programs."""
    python = str(Path(sys.executable).resolve()) if emulator else sys.executable
    searched = os.pathsep.join(path for path in sys.path if path)
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    ran = subprocess.run(
        [*emulator, python, "-c", PROGRAM, *map(str, threads)],
        env=environment | {"PYTHONPATH": searched, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.split()


@pytest.fixture(scope="module")
def here() -> list[str]:
    """The digests on this processor, by 1, 2 and 4 threads."""
    return computed(1, 2, 4)


def test_the_same_bytes_by_any_number_of_threads(here: list[str]) -> None:
    assert (len(here), len({*here})) == (3, 1)


def test_an_emulated_processor_of_another_vendor_computes_the_same_bytes(here: list[str]) -> None:
    """QEMU's Haswell is the outsider: libraries see Intel's vendor, model and caches, without AVX-512."""
    programs.require("qemu-x86_64")
    assert computed(1, emulator=["qemu-x86_64", "-cpu", "Haswell-v4"]) == here[:1]
