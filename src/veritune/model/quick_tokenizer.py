"""A saved tokenizer without transformers: the parts that prompts and answers need."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Classes that transformers loads as tokenizer.json says, and nothing else.
_AS_SAVED = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast"})
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


class QuickTokenizer:
    """Speaks as transformers' tokenizer does, as far as ``PromptFormat`` asks."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.special_tokens_map = {
            name: str(settings[name]) for name in _SPECIAL if settings.get(name)
        }
        template = folder / "chat_template.jinja"
        self.chat_template = template.read_text(encoding="utf-8") if template.is_file() else None
        self.added_tokens_decoder = self._tokenizer.get_added_tokens_decoder()
        self.eos_token_id = self._id("eos_token")
        self.pad_token_id = self._id("pad_token")
        if self.pad_token_id is None:
            self.pad_token_id = self.eos_token_id
        known = [self._id(name) for name in self.special_tokens_map]
        self.all_special_ids = sorted({index for index in known if index is not None})

    @classmethod
    def read(cls, folder: Path) -> QuickTokenizer | None:
        """The tokenizer of a folder, or None if only transformers knows how to read it."""
        try:
            text = (folder / "tokenizer_config.json").read_text(encoding="utf-8")
            settings = json.loads(text)
        except (OSError, ValueError):
            return None
        known = isinstance(settings, dict) and settings.get("tokenizer_class") in _AS_SAVED
        if not known or not (folder / "tokenizer.json").is_file():
            return None
        if any(isinstance(settings.get(name), dict) for name in _SPECIAL):
            return None
        if settings.get("chat_template") or not settings.get("eos_token"):
            return None
        return cls(folder, settings)

    def __call__(
        self, text: str | list[str], *, add_special_tokens: bool = True, **_: Any
    ) -> dict[str, Any]:
        """``input_ids`` of a text, or of each of a list."""
        texts = [text] if isinstance(text, str) else text
        encoded = self._tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        rows = [row.ids for row in encoded]
        return {"input_ids": rows[0] if isinstance(text, str) else rows}

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of some tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
    ) -> str:
        """The messages in the model's own wording, rendered in Jinja's sandbox."""
        del tokenize
        import jinja2
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise jinja2.exceptions.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.globals["raise_exception"] = raise_exception
        template = environment.from_string(self.chat_template or "")
        return template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self.special_tokens_map,
        )

    def _id(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        found: int | None = None if token is None else self._tokenizer.token_to_id(token)
        return found
