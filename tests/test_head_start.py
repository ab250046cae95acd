"""Torch with a head start is torch: nothing is missing once somebody needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import sys
from veritune.head_start import read_torch_ahead, with_meta_kernels, without_meta_kernels
read_torch_ahead()
with without_meta_kernels():
    import torch
assert "torch._decomp.decompositions" not in sys.modules
torch.manual_seed(0)
print(torch.nn.functional.linear(torch.ones(1, 3), torch.ones(2, 3)).tolist())
"""
# The kernel of `eig` for tensors without values is in Python alone.
MADE_UP_FOR = """
with_meta_kernels()
empty = torch.empty(3, 3, device="meta")
print(torch.linalg.eig(empty).eigenvalues.shape)
import torch._meta_registrations
assert torch._meta_registrations.__file__
with_meta_kernels()
"""
ASKED_FOR = """
from torch._meta_registrations import register_meta
import transformers
with torch.device("meta"):
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = transformers.LlamaForCausalLM(config)
print(model(torch.zeros(1, 4, dtype=torch.int64, device="meta")).logits.shape)
"""


def output_of(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("then", "shape"),
    [(MADE_UP_FOR, "torch.Size([3])"), (ASKED_FOR, "torch.Size([1, 4, 30])")],
)
def test_what_was_left_out_comes_when_it_is_needed(then: str, shape: str) -> None:
    assert output_of(BEGIN + then) == ["[[3.0, 3.0]]", shape]


@pytest.mark.slow
def test_torch_that_is_imported_already_stays_as_it_is() -> None:
    program = (
        "import torch\nfrom veritune.head_start import *\nread_torch_ahead()\n"
        "with without_meta_kernels():\n    import torch\n"
        "with_meta_kernels()\nprint(torch._meta_registrations.__file__ is not None)"
    )
    assert output_of(program) == ["True"]
