"""Let a PEFT model compute by the fast layers, for the time of training on a CPU.

Only the modules' ``forward`` is replaced.  Tensors and names stay PEFT's and are trained in
place, so checkpoints and saved folders need no conversion, and ``restore`` undoes it all.  Whatever
is not known to be equal (DoRA, biases that train, other layer types) keeps its own path.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

from veritune.model.adapter import OURS
from veritune.model.cpu_layers import gated_mlp, root_mean_square
from veritune.model.dropped import Dropped
from veritune.model.stacked_lora import Factors, Situation, StackedLoRALinear, Stream

_NORMS = frozenset(
    {"LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm", "T5LayerNorm"}
)
_MLPS = frozenset({"LlamaMLP", "Qwen2MLP", "Qwen3MLP", "MistralMLP"})
# Layers of one parent that are always called on the same input.
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("wi_0", "wi_1"))
_T5_SELF, _T5_CROSS = ("q", "k", "v"), ("k", "v")
# Models whose logits are the plain product of the last hidden states and the head.
_PLAIN_HEADS = frozenset({"llama", "qwen2", "qwen3", "mistral", "starcoder2", "t5"})


def hidden_states(x: torch.Tensor) -> torch.Tensor:
    """Stands for the output layer and hands its input through; the loss does the product."""
    return x


@dataclass(frozen=True)
class CountedDropout:
    """Dropout of a base model, drawn by adapter, step and site."""

    layer: nn.Dropout
    situation: Situation
    stream: Stream
    site: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., d]``, in training with entries dropped and the others scaled up."""
        if not self.layer.training or self.layer.p <= 0:
            return x
        ranges = self.situation.of(self.stream, x.numel() // x.shape[-1])
        draws = [
            (start, end, self.situation.draw(adapter, self.site)) for adapter, start, end in ranges
        ]
        y: torch.Tensor = Dropped.apply(x, self.layer.p, draws)  # type: ignore[no-untyped-call]
        return y


@dataclass
class Fused:
    """A model that computes by fast layers.

    Attributes:
        situation: tell it which adapter owns which tokens, and count its passes up.
        n_joined: how many layers were put together from PEFT's and the base's.
    """

    situation: Situation
    n_joined: int = 0
    _patched: list[nn.Module] = field(default_factory=list)
    _linears: list[nn.Linear] = field(default_factory=list)

    def put(self, module: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
        """Let a module compute by another function; its tensors and names stay."""
        module.forward = forward
        self._patched.append(module)

    def join(self, linears: list[nn.Linear], joined: StackedLoRALinear) -> None:
        """Let the joined layers' weights be views of the joint one."""
        self.n_joined += 1
        if len(linears) == 1:
            return
        for linear, rows in zip(linears, torch.split(joined.weight, joined.sizes), strict=True):
            linear.weight.data = rows
            self._linears.append(linear)

    def restore(self) -> None:
        """Put every layer back as it was."""
        for module in self._patched:
            del module.forward
        for linear in self._linears:
            # Its own storage again: safetensors refuses tensors that share one.
            linear.weight.data = linear.weight.data.clone()
        self._patched, self._linears = [], []


def fuse(model: Any, adapters: Mapping[int, str] | None = None) -> Fused:
    """Replace what can be replaced in a PEFT model.

    Args:
        adapters: PEFT's names of the adapters by number; by default ours is number 0.
    """
    base = model.get_base_model()
    return Plan.of(base, dict(adapters or {0: OURS}), Fused(Situation())).carry_out(base)


@dataclass(frozen=True)
class Plan:
    """What replacing needs to know everywhere in the model."""

    fused: Fused
    adapters: dict[int, str]
    sites: dict[str, int]
    is_seq2seq: bool

    @classmethod
    def of(cls, base: Any, adapters: dict[int, str], fused: Fused, **own: Any) -> Self:
        """The plan for a base model that PEFT has put adapters on."""
        sites = {name: number for number, name in enumerate(_places(base))}
        is_seq2seq = bool(getattr(base.config, "is_encoder_decoder", False))
        return cls(fused, adapters, sites, is_seq2seq, **own)

    def carry_out(self, base: Any) -> Fused:
        """Replace everything there is to replace."""
        for path, parent in list(base.named_modules()):
            self.join_children(path, parent)
            self.replace_children(path, parent)
        self.replace_head(self.fused, base)
        return self.fused

    def join_children(self, path: str, parent: nn.Module) -> None:
        """Put siblings on one input together, and what else carries an adapter by itself."""
        found = {name: c for name, c in parent.named_children() if _fits(c, self.adapters)}
        left = set(found)
        for group in (*_SIBLINGS, _T5_CROSS if path.endswith("EncDecAttention") else _T5_SELF):
            if set(group) <= left and _alike([found[name] for name in group]):
                self._join(path, group, found)
                left -= set(group)
        for name in sorted(left):
            if not isinstance(found[name], nn.Linear):
                self._join(path, (name,), found)

    def _join(self, path: str, group: tuple[str, ...], found: dict[str, nn.Module]) -> None:
        linears = [_known(found[name]) for name in group]
        factors: dict[int, list[Factors | None]] = {
            number: [_factors(found[name], adapter, self.sites[f"{path}.{name}"]) for name in group]
            for number, adapter in self.adapters.items()
        }
        joined = self.joined(linears, factors, _stream(path, group, self.is_seq2seq))
        self.fused.join(linears, joined)
        for index, name in enumerate(group):
            self.fused.put(found[name], functools.partial(joined.member, index, found[name]))

    def joined(
        self,
        linears: list[nn.Linear],
        factors: dict[int, list[Factors | None]],
        stream: Stream,
    ) -> StackedLoRALinear:
        """The layer that computes for some siblings."""
        return StackedLoRALinear(linears, factors, self.fused.situation, stream)

    def norm(self, layer: nn.Module) -> Callable[..., torch.Tensor]:
        """What computes for a frozen RMS norm."""
        return functools.partial(root_mean_square, layer)

    def dropout(self, layer: nn.Dropout, where: str) -> Callable[..., torch.Tensor]:
        """What computes for one of the base's own dropouts."""
        stream = _stream(where, ("",), self.is_seq2seq)
        return CountedDropout(layer, self.fused.situation, stream, self.sites[where])

    def attention(self, layer: Any, where: str) -> None:
        """Tell an attention, which is a function without state, of its dropout's draws."""
        if type(layer).__name__ == "T5Attention":
            layer.veritune_situation = (self.fused.situation, self.sites[f"{where}.o"])

    def replace_children(self, path: str, parent: nn.Module) -> None:
        """Norms, gated MLPs, the base's own dropouts, and T5's attention."""
        for name, child in parent.named_children():
            kind = type(child).__name__
            where = f"{path}.{name}".strip(".")
            frozen = not any(p.requires_grad for p in child.parameters(recurse=False))
            if kind in _NORMS and frozen:
                self.fused.put(child, self.norm(child))
            elif kind in _MLPS and getattr(child.config, "hidden_act", "") == "silu":
                self.fused.put(child, functools.partial(gated_mlp, child))
            elif type(child) is nn.Dropout and where in self.sites:
                self.fused.put(child, self.dropout(child, where))
            else:
                self.attention(child, where)

    def fits(self, child: nn.Module) -> bool:
        """Whether a layer is a frozen linear one with nothing but plain LoRA on it."""
        return _fits(child, self.adapters)

    @staticmethod
    def replace_head(fused: Fused, base: Any) -> None:
        """Leave the output layer's product to the loss where it is nothing but a product."""
        head = base.get_output_embeddings()
        if base.config.model_type not in _PLAIN_HEADS or type(head) is not nn.Linear:
            return
        if head.bias is None and not head.weight.requires_grad:
            fused.put(head, hidden_states)


def _places(base: Any) -> Iterator[str]:
    """Names of linear layers and dropouts as in the bare base, adapters not counted."""
    for path, module in base.named_modules():
        if ".lora_" in path or path.endswith(".base_layer"):
            continue
        if isinstance(module, nn.Dropout | nn.Linear) or hasattr(module, "base_layer"):
            yield path


def _stream(path: str, names: tuple[str, ...], is_seq2seq: bool) -> Stream:
    if not is_seq2seq:
        return "source"
    if path.startswith("encoder.") or (
        path.endswith("EncDecAttention") and set(names) <= set(_T5_CROSS)
    ):
        return "source"
    return "target"


def _linear(child: nn.Module) -> nn.Linear | None:
    base = getattr(child, "base_layer", child)
    return base if isinstance(base, nn.Linear) else None


def _known(child: nn.Module) -> nn.Linear:
    linear = _linear(child)
    assert linear is not None
    return linear


def _fits(child: nn.Module, adapters: dict[int, str]) -> bool:
    """Whether a layer is a frozen linear one with nothing but plain LoRA on it."""
    linear = _linear(child)
    if linear is None or type(linear) is not nn.Linear:
        return False
    if any(parameter.requires_grad for parameter in linear.parameters()):
        return False
    if child is linear:
        return True
    if not hasattr(child, "lora_A") or getattr(child, "merged", False):
        return False
    plain: Any = child
    return not any(
        name in plain.lora_variant or plain.lora_bias.get(name, False)
        for name in adapters.values()
        if name in plain.lora_A
    )


def _alike(members: list[nn.Module]) -> bool:
    weights = [_known(member).weight for member in members]
    return len({(w.shape[1], w.dtype, w.device) for w in weights}) == 1


def _factors(child: nn.Module, adapter: str, site: int) -> Factors | None:
    layer: Any = child
    if not hasattr(layer, "lora_A") or adapter not in layer.lora_A:
        return None
    return Factors(
        a=layer.lora_A[adapter].weight,
        b=layer.lora_B[adapter].weight,
        scaling=float(layer.scaling[adapter]),
        dropout=float(getattr(layer.lora_dropout[adapter], "p", 0.0)),
        site=site,
    )
