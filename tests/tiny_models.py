"""Tiny untrained models with real tokenizers, built on the spot and seeded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

Architecture = Literal["llama", "qwen2", "t5"]

_CORPUS = [
    "def add(a, b):\n    return a + b\n",
    "for item in items:\n    print(item)\n",
    "with open(path) as file:\n    words = file.read().split()\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n",
    "Write a function that sorts a list of numbers and returns the largest of them.",
    "Create a shopping list. Read a file. Count the words. Print the result.",
]
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PAD, _END, _IM_START, _IM_END = "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def build_tokenizer(*, chat: bool) -> Any:
    """A byte-level BPE tokenizer: ids 0 to 3 are pad, end of text, and the two chat marks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[_PAD, _END, _IM_START, _IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_IM_END if chat else _END, pad_token=_PAD
    )
    if chat:
        fast.chat_template = _CHATML
    return fast


def build_model(
    architecture: Architecture,
    folder: Path,
    *,
    seed: int = 0,
    size: int = 32,
    t5_dropout: float = 0.1,
) -> Path:
    """Save a random model of two layers and its tokenizer; returns the folder."""
    import transformers

    tokenizer = build_tokenizer(chat=architecture != "t5")
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(seed)
    if architecture == "t5":
        model: Any = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=len(tokenizer),
                d_model=size,
                d_kv=size // 4,
                d_ff=2 * size,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
                dropout_rate=t5_dropout,
                **ids,
            )
        )
    else:
        config, kind = {
            "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
            "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        }[architecture]
        model = kind(
            config(
                vocab_size=len(tokenizer),
                hidden_size=size,
                intermediate_size=2 * size,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                bos_token_id=None,
                **ids,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
