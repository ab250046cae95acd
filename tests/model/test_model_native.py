"""Training's C against fp64 in torch and numpy's own generator."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from veritune.model import segment_attention
from veritune.model.counted_dropout import Draw, keep_mask
from veritune.model.dropped import Dropped
from veritune.model.native import build
from veritune.model.native.kernels import SOURCE
from veritune.model.segment_attention import SegmentAttention, Segments
from veritune.model.stacked_lora import Factors, Situation, StackedLoRALinear

_TYPES = [torch.float32, torch.bfloat16]
needs_c = pytest.mark.skipif(
    any(build.library(SOURCE, dtype) is None for dtype in _TYPES),
    reason="no compiler, or a CPU without AVX512-BF16",
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_c
@pytest.mark.parametrize("dtype", _TYPES)
@given(
    n=st.integers(1, 300),
    p=st.floats(0.0, 0.9),
    draw=st.builds(Draw, st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 2**30)),
)
def test_the_mask_is_numpys_forward_and_backward(
    dtype: torch.dtype, n: int, p: float, draw: Draw
) -> None:
    kept, keep = keep_mask(n, p, draw)
    x = torch.arange(1, n + 1).to(dtype).unsqueeze(0).requires_grad_()
    y = Dropped.apply(x, p, [(0, 1, draw)])
    wanted = (x.detach().double() * kept / keep).to(dtype)
    assert torch.allclose(y, wanted, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=0)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad[0] != 0, kept)  # type: ignore[index]


@dataclasses.dataclass(frozen=True)
class Case:
    heads: int
    kv_heads: int
    width: int
    causal: bool
    dropout: float
    prefix: int
    biased: bool


CASES = [
    Case(12, 12, 64, causal=True, dropout=0.1, prefix=0, biased=True),
    Case(3, 3, 32, causal=False, dropout=0.1, prefix=0, biased=True),
    Case(9, 3, 64, causal=True, dropout=0.0, prefix=30, biased=False),
    Case(4, 2, 16, causal=True, dropout=0.3, prefix=5, biased=False),
    Case(2, 1, 128, causal=True, dropout=0.0, prefix=0, biased=False),
]


def _made(
    case: Case, dtype: torch.dtype
) -> tuple[list[torch.Tensor], torch.Tensor | None, Segments]:
    torch.manual_seed(0)
    queries, at = [], 0
    for n in ([case.prefix] if case.prefix else []) + [7, 90, 1, 33, 50]:
        queries.append((at, at + n))
        at += n
    prefixes = [(0, 0), *[(0, case.prefix)] * 5] if case.prefix else None
    draws = [Draw(3, 5, site) for site in range(len(queries))]
    segments = Segments(
        queries, queries, case.width**-0.5, case.causal, case.dropout, draws, prefixes
    )

    def rows(heads: int) -> torch.Tensor:
        return torch.randn(at, heads, case.width).to(dtype).transpose(0, 1)

    bias = torch.randn(case.heads, 95, 95).to(dtype) if case.biased else None
    outer = rows(case.heads).transpose(0, 1)
    return [rows(case.heads), rows(case.kv_heads), rows(case.kv_heads), outer], bias, segments


def _passed(
    tensors: list[torch.Tensor], bias: torch.Tensor | None, segments: Segments
) -> list[torch.Tensor]:
    *inputs, outer = tensors
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = SegmentAttention.apply(*inputs, bias, segments)
    out.backward(outer)
    return [out.detach(), *(t.grad for t in inputs)]  # type: ignore[list-item]


@needs_c
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("case", CASES)
def test_attention_and_its_gradients_equal_those_in_fp64(
    case: Case, dtype: torch.dtype, bound: float
) -> None:
    tensors, bias, segments = _made(case, dtype)
    wanted = _passed(
        [t.double() for t in tensors], None if bias is None else bias.double(), segments
    )
    for name, ours, theirs in zip(
        ("out", "dq", "dk", "dv"), _passed(tensors, bias, segments), wanted, strict=True
    ):
        assert (ours.double() - theirs).norm() / theirs.norm() < bound, name


@needs_c
def test_a_bias_that_is_too_small_is_refused_and_not_read_beyond() -> None:
    tensors, bias, segments = _made(CASES[0], torch.float32)
    assert bias is not None
    with pytest.raises(ValueError, match="smaller than the longest"):
        _passed(tensors, bias[:, :89, :89], segments)


@needs_c
def test_results_do_not_depend_on_the_number_of_threads(two_threads: None) -> None:
    tensors, bias, segments = _made(CASES[3], torch.bfloat16)
    together = _passed(tensors, bias, segments)
    torch.set_num_threads(1)
    for one, two in zip(_passed(tensors, bias, segments), together, strict=True):
        assert torch.equal(one, two)


@needs_c
@pytest.mark.parametrize("case", CASES)
def test_without_a_compiler_torch_computes_the_same(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, bias, segments = _made(case, torch.float32)
    compiled = _passed(tensors, bias, segments)
    monkeypatch.setattr(segment_attention, "kernels", lambda like: None)
    for ours, theirs in zip(compiled, _passed(tensors, bias, segments), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def _layer_passed(
    dtype: torch.dtype, n: int, ranks: tuple[int, int], p: float
) -> list[torch.Tensor]:
    """Output and every gradient of three joined layers, two adapters one after the other."""
    generator = torch.Generator().manual_seed(n)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    members = [torch.nn.Linear(64, size, bias=False) for size in (48, 16, 80)]
    for member in members:
        member.weight = torch.nn.Parameter(draw(*member.weight.shape), requires_grad=False)
    first = max(1, n // 3)
    situation = Situation(
        {"source": [(0, 0, first), (1, first, n)] if n > 1 else [(0, 0, n)]},
        {0: 3, 1: 4},
        {0: 2, 1: 9},
    )
    factors: dict[int, list[Factors | None]] = {}
    trained: list[torch.nn.Parameter] = []
    for adapter, rank in enumerate(ranks):
        factors[adapter] = []
        for site, member in enumerate(members):
            a = torch.nn.Parameter(draw(rank + site, 64))
            b = torch.nn.Parameter(draw(member.out_features, rank + site))
            trained += [a, b]
            factors[adapter].append(Factors(a, b, 0.5, p, site) if site != 1 else None)
    layer = StackedLoRALinear(members, factors, situation, "source").train()
    x = draw(n, 64).requires_grad_()
    y = layer(x)
    y.backward(draw(n, 144))
    return [y.detach(), x.grad, *(t.grad for t in trained if t.grad is not None)]  # type: ignore[list-item]


@needs_c
@pytest.mark.parametrize("n", [1, 23, 24, 130])
@pytest.mark.parametrize(("ranks", "p"), [((1, 5), 0.0), ((4, 17), 0.3), ((8, 3), 0.01)])
def test_adapters_and_their_gradients_equal_those_in_fp64(
    n: int, ranks: tuple[int, int], p: float
) -> None:
    ours, wanted = (_layer_passed(dtype, n, ranks, p) for dtype in (torch.float32, torch.float64))
    assert len(ours) == len(wanted) >= 6
    for one, other in zip(ours, wanted, strict=True):
        assert (one.double() - other).norm() <= 1e-5 * other.norm()


@needs_c
def test_gradients_of_adapters_do_not_depend_on_the_number_of_threads(two_threads: None) -> None:
    together = _layer_passed(torch.bfloat16, 130, (4, 17), 0.1)
    torch.set_num_threads(1)
    for one, two in zip(_layer_passed(torch.bfloat16, 130, (4, 17), 0.1), together, strict=True):
        assert torch.equal(one, two)
