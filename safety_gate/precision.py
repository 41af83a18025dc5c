"""How torch computes: float32 products at the speed that the processor has, and its threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PROBE = (512, 2048, 96)  # rows, columns of V and thin columns of a typical product
FLOAT32_ERROR = 2e-6  # relative; plain float32 summation over 2048 terms stays below 1e-6


@contextmanager
def float32_products() -> Iterator[None]:
    """Let torch use oneDNN's float32 kernels where they really compute in float32.

    torch sends float32 products to MKL, which on processors that are not Intel's runs at half of
    the speed of oneDNN's AVX-512 kernels (78 against 190 GFLOP/s on one Zen 5 core). The switch
    that torch has for oneDNN also allows it to round to bfloat16 where that is faster (AMX). So
    both kinds of product are tried on seeded numbers and compared with float64 first: where they
    are not as exact as float32, the switch stays off. Same machine, same kernels, same report.
    """
    import torch

    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # not in the stubs
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    if not _is_exact():
        setting.fp32_precision = before
    try:
        yield
    finally:
        setting.fp32_precision = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in the calling thread alone.

    For simple steps on thin matrices: a second thread would save nothing and burn its core waiting.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_exact() -> bool:
    """Tell whether products of float32 matrices have float32's error."""
    import torch

    rows, columns, thin = PROBE
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(rows, columns, generator=generator)
    m = torch.randn(rows, thin, generator=generator)
    x = torch.randn(columns, thin, generator=generator)
    sums = torch.zeros(columns, thin).addmm_(v.T, m)
    pairs = ((v @ x, v.double() @ x.double()), (sums, v.double().T @ m.double()))
    return all(
        float((fast.double() - exact).norm() / exact.norm()) < FLOAT32_ERROR
        for fast, exact in pairs
    )


def has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
