"""Streaming: pieces add up to the answer, and the answer is what decoding gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_models import build_tokenizer
from veritune.ask.asker import Manner, TokenText, checked_question
from veritune.ask.conversation import ADAPTED
from veritune.ask.open_run import open_asker
from veritune.cli.shared import recipe_of
from veritune.errors import DataError
from veritune.generate.decode import decode
from veritune.generate.engine import BASE
from veritune.model.hardware import choose_placement
from veritune.pipeline.trained import open_trained
from veritune.run_dir import RunDirectory

TOKENIZER = build_tokenizer(chat=True)
QUESTION = "Write a function that adds two numbers."


@given(st.text(max_size=40))
def test_pieces_add_up_to_the_text_whatever_its_characters(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    stream = TokenText(TOKENIZER)
    pieces = [stream.add(token) for token in ids]
    assert "".join([*pieces, stream.rest()]) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_a_character_of_several_tokens_comes_whole() -> None:
    ids = TOKENIZER("a🦜b", add_special_tokens=False)["input_ids"]
    stream = TokenText(TOKENIZER)
    pieces = [stream.add(token) for token in ids]
    assert [piece for piece in pieces if piece] == ["a", "🦜", "b"]
    broken = TokenText(TOKENIZER)
    assert [broken.add(token) for token in ids[:3]] == ["a", "", ""] and broken.rest() == "�"


@pytest.mark.parametrize("system", [BASE, ADAPTED])
def test_a_greedy_answer_is_what_decoding_gives(llama_run: Path, system: str) -> None:
    run, recipe = RunDirectory(llama_run), recipe_of(llama_run, None)
    trained = open_trained(run, recipe, choose_placement(recipe.model))
    model = trained.adapted if system == ADAPTED else trained.plain
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    wording = trained.encoder.format
    (expected,) = decode(model, wording, [prompt], max_new_tokens=30, batch_size=1)

    reply = open_asker(run, recipe).ask(QUESTION, system, Manner(max_new_tokens=30))
    pieces = list(reply)
    answer = reply.answer
    assert "".join(pieces) == answer.text == expected.raw
    assert answer.n_new_tokens == expected.n_new_tokens
    assert answer.finish_reason == expected.finish_reason
    assert 0 < answer.first_token_seconds <= answer.seconds


def test_leaving_an_answer_cancels_it(llama_run: Path) -> None:
    asker = open_asker(RunDirectory(llama_run), recipe_of(llama_run, None))
    reply = asker.ask(QUESTION, BASE, Manner(max_new_tokens=200))
    for _ in reply:
        break
    del _
    assert reply.answer.n_new_tokens <= 2
    assert asker._engine.n_active == 0


def test_draws_follow_the_seed_and_the_number_of_the_answer(llama_run: Path) -> None:
    asker = open_asker(RunDirectory(llama_run), recipe_of(llama_run, None))

    def text(index: int, seed: int) -> str:
        manner = Manner(max_new_tokens=20, temperature=3.0, seed=seed)
        return "".join(asker.ask(QUESTION, ADAPTED, manner, index))

    assert text(0, 5) == text(0, 5) == "" + text(0, 5)
    assert text(1, 5) == text(0, 6) != text(0, 5)


def test_questions_that_say_nothing_or_cannot_be_read_are_refused() -> None:
    assert checked_question("\n  a\n b\n") == "  a\n b"
    with pytest.raises(DataError, match="empty"):
        checked_question(" \n\t")
    with pytest.raises(DataError, match="UTF-8"):
        checked_question("a\udcff")
