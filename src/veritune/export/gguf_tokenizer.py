"""A byte-level BPE tokenizer in GGUF's metadata, with the chat template.

llama.cpp knows how text is cut before merging by a name only, so the tokenizer's own rules
are compared with those the names stand for; what has no name is refused, never guessed.
"""

from __future__ import annotations

import json
from typing import Any

from veritune.errors import ModelReferenceError
from veritune.model.prompt import PromptFormat

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\p{L}+|{digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{_REST.replace('{digits}', digits)}": name
    for digits, name in ((r"\p{N}", "qwen2"), (r"\p{N}{1,3}", "llama-bpe"))
}


def write_tokenizer(writer: Any, prompt_format: PromptFormat, vocab_size: int) -> None:
    """Write tokens, merges, special tokens and the chat template.

    Args:
        writer: a ``gguf.GGUFWriter``.
        vocab_size: rows of the embedding; ids that the tokenizer does not use get names.

    Raises:
        ModelReferenceError: the tokenizer is of another kind.
    """
    tokenizer = prompt_format.tokenizer
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = pre_tokenizer_name(definition)
    tokens, kinds = _tokens(tokenizer, vocab_size)
    merges = definition["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    # What ends an answer, which need not be what the tokenizer calls its end.
    writer.add_eos_token_id(prompt_format.end_id)
    writer.add_pad_token_id(int(tokenizer.pad_token_id))
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(int(tokenizer.bos_token_id))
    writer.add_add_bos_token(_adds_bos(tokenizer))
    writer.add_add_space_prefix(False)
    if prompt_format.chat:
        writer.add_chat_template(str(tokenizer.chat_template))


def pre_tokenizer_name(definition: dict[str, Any]) -> str:
    """llama.cpp's name of the way a tokenizer cuts text before merging.

    Args:
        definition: content of ``tokenizer.json``.

    Raises:
        ModelReferenceError: no known name means the same.
    """
    model, normalizer = definition["model"], definition.get("normalizer")
    steps = _steps(definition.get("pre_tokenizer"))
    kinds = [step["type"] for step in steps]
    name = None
    byte_level = bool(steps) and kinds[-1] == "ByteLevel" and not steps[-1]["add_prefix_space"]
    is_plain = normalizer is None and not model.get("byte_fallback")
    if model["type"] == "BPE" and byte_level and is_plain:
        name = _name(steps)
    if model["type"] == "BPE" and byte_level and kinds == ["Split", "ByteLevel"]:
        only_nfc = normalizer is None or normalizer.get("type") == "NFC"
        name = _SPLITS.get(steps[0]["pattern"].get("Regex", "")) if only_nfc else None
    if name is None:
        raise ModelReferenceError(
            "GGUF export does not know this tokenizer",
            received=f"{model['type']} after {', '.join(kinds) or 'no cutting'}",
            accepted="byte-level BPE as GPT-2, SmolLM, Qwen2 or Llama 3 have it",
            next_step="export --to merged, and convert it with llama.cpp's own tools",
        )
    return name


def _name(steps: list[dict[str, Any]]) -> str | None:
    if not steps[-1].get("use_regex", True):
        return None
    if len(steps) == 1:
        return "gpt-2"
    digits = len(steps) == 2 and steps[0]["type"] == "Digits" and steps[0]["individual_digits"]
    return "smollm" if digits else None


def _steps(cutter: dict[str, Any] | None) -> list[dict[str, Any]]:
    if cutter is None:
        return []
    return list(cutter["pretokenizers"]) if cutter["type"] == "Sequence" else [cutter]


def _tokens(tokenizer: Any, vocab_size: int) -> tuple[list[str], list[int]]:
    import gguf

    kinds = gguf.TokenType
    by_id = {index: text for text, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for index in range(max(vocab_size, max(by_id) + 1)):
        if index not in by_id:
            tokens.append(f"[UNUSED{index}]")
            types.append(kinds.UNUSED)
        else:
            tokens.append(by_id[index])
            special = index in added and added[index].special
            mine = kinds.USER_DEFINED if index in added else kinds.NORMAL
            types.append(kinds.CONTROL if special else mine)
    return tokens, [int(kind) for kind in types]


def _adds_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
