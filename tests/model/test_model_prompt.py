"""Prompts: worded in one place, safe against what data may hold, closed by the end token."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veritune.config import ModelSection
from veritune.errors import RecipeError
from veritune.model.load import load_tokenizer
from veritune.model.prompt import PromptFormat, prompt_format
from veritune.rows import Example


def _example(instruction: str, given: str = "") -> Example:
    return Example("e", "c", "train", instruction, given, "pass")


def _format(folder: Path, kind: str = "causal", join: bool = True, **prompt: str) -> PromptFormat:
    section = ModelSection.model_validate({"name_or_path": str(folder), "prompt": prompt})
    return prompt_format(section, load_tokenizer(section), kind, join_input=join)  # type: ignore[arg-type]


def test_a_chat_model_gets_its_own_template_and_end_of_turn(tiny_llama_folder: Path) -> None:
    wording = _format(tiny_llama_folder)
    prompt = wording.prompt(_example("Add two numbers."))
    assert prompt.count("<|im_start|>user\nAdd two numbers.<|im_end|>") == 1
    assert prompt.endswith("<|im_start|>assistant\n")
    both = [_example("Add two numbers."), _example("{no} template", "given")]
    assert wording.prompts(both) == [wording.prompt(example) for example in both]
    [answer] = wording.encode_answers(["x = 1"])
    assert answer[-1] == wording.end_id == wording.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert answer.count(wording.end_id) == 1


def test_shots_come_before_the_question(tiny_llama_folder: Path) -> None:
    wording = _format(tiny_llama_folder)
    prompt = wording.prompt(_example("third"), [(_example("first"), "answer_one()")])
    assert prompt.index("first") < prompt.index("answer_one()") < prompt.index("third")


def test_the_input_is_joined_or_ignored(tiny_t5_folder: Path) -> None:
    example = _example("Sort it.", "[3, 1]")
    assert _format(tiny_t5_folder, "seq2seq").prompt(example) == "Sort it.\n\n[3, 1]"
    assert _format(tiny_t5_folder, "seq2seq", join=False).prompt(example) == "Sort it."


def test_placeholders_inside_the_data_stay_as_they_are(tiny_t5_folder: Path) -> None:
    wording = _format(tiny_t5_folder, "seq2seq", template="Q: {instruction} I: {input}")
    assert wording.prompt(_example("use {input}", "and {instruction}")) == (
        "Q: use {input} I: and {instruction}"
    )


def test_a_plain_decoder_prompt_marks_where_the_answer_starts(tiny_llama_folder: Path) -> None:
    wording = _format(tiny_llama_folder, style="plain")
    assert wording.prompt(_example("Add.")).endswith("### Answer:\n")
    assert wording.end_id == wording.tokenizer.eos_token_id


def test_chat_without_a_template_is_refused(tiny_t5_folder: Path) -> None:
    with pytest.raises(RecipeError, match="no chat template"):
        _format(tiny_t5_folder, "seq2seq", style="chat")


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=80))
def test_generation_sees_exactly_the_prompt_that_training_saw(
    text: str, tiny_llama_folder: Path
) -> None:
    wording = _cached(tiny_llama_folder)
    example = _example(text)
    [(source, target)] = wording.encode_pairs([example], [text])
    assert source == wording.encode_prompt(wording.prompt(example))
    assert target[-1] == wording.end_id


_FORMATS: dict[Path, PromptFormat] = {}


def _cached(folder: Path) -> PromptFormat:
    if folder not in _FORMATS:
        _FORMATS[folder] = _format(folder)
    return _FORMATS[folder]
