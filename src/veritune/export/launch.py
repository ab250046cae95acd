"""Files that start a server on an export: a line for vLLM, a Modelfile for Ollama."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from veritune.model.prompt import PromptFormat

_MARK = "veritune-question"
_MOST_CONTEXT = 8192


@dataclass(frozen=True)
class _Question:
    instruction: str
    input: str = ""


def vllm_script(name: str, context_tokens: int | None) -> str:
    """A shell script that serves the folder it lies in."""
    length = ["--max-model-len", str(context_tokens)] if context_tokens else []
    words = ["--served-model-name", name, *length, "--host", "127.0.0.1", "--port", "8000"]
    return (
        "#!/bin/sh\n"
        "# Serves this folder with vLLM, on this machine only; answers are greedy by default,\n"
        "# as generation_config.json says.\n"
        f'exec vllm serve "$(dirname "$0")" {shlex.join(words)} --generation-config auto "$@"\n'
    )


def modelfile(gguf_name: str, prompt_format: PromptFormat, context_tokens: int | None) -> str:
    """Ollama's Modelfile: the prompt word for word as the adapter was trained on it.

    Ollama's own reading of a chat template is not trusted; its template here is the run's own
    prompt with the question taken out.
    """
    before, _, after = prompt_format.prompt(_Question(_MARK)).partition(_MARK)
    template = f"{_go(before)}{{{{ .Prompt }}}}{_go(after)}{{{{ .Response }}}}"
    stops = {prompt_format.end_id, int(prompt_format.tokenizer.eos_token_id)}
    lines = [
        "# ollama create NAME -f Modelfile",
        f"FROM ./{gguf_name}",
        f"TEMPLATE {_quoted(template)}",
        *(
            f"PARAMETER stop {_quoted(text)}"
            for text in sorted(prompt_format.tokenizer.convert_ids_to_tokens(stops))
        ),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {min(context_tokens or _MOST_CONTEXT, _MOST_CONTEXT)}",
    ]
    return "\n".join(lines) + "\n"


def _go(text: str) -> str:
    """Text that Go's templates print as it is."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    """A Modelfile's string; three quotes inside one cannot be written, and no template has them."""
    return f'"""{text}"""'
