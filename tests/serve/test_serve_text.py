"""Pieces of text join to the whole text, and stop strings are found wherever pieces are cut."""

from __future__ import annotations

import pytest
from fake_engine import TOKENIZER, encode
from hypothesis import given
from hypothesis import strategies as st

from tiny_models import build_tokenizer
from veritune.serve.text import Detokenizer, StopAt

STOPS = st.sampled_from(["stop", "ab", "aba", "é🎈"])
WORDS = st.sampled_from(["a", "b", "ab", "aba", " ", "é", "🎈", "\n", "stop", "st", "\ufffd"])


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_pieces_of_any_tokens_join_to_their_text(ids: list[int]) -> None:
    growing = Detokenizer(TOKENIZER)
    pieces = [growing.add(token) for token in ids]
    whole = TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join([*pieces, growing.end()]) == whole


@given(st.text())
def test_no_piece_ends_within_a_character(text: str) -> None:
    growing = Detokenizer(TOKENIZER)
    pieces = [growing.add(token) for token in encode(text)]
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
    assert "".join([*pieces, growing.end()]) == text


def test_words_of_a_tokenizer_that_swallows_leading_blanks() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = {"▁print": 0, "▁x": 1, "(": 2, "▁": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="▁"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()

    class Wrapped:
        def decode(self, ids: list[int], **_: object) -> str:
            return str(tokenizer.decode(ids))

    growing = Detokenizer(Wrapped())
    ids = [0, 1, 2, 1, 3, 0]
    assert "".join([*map(growing.add, ids), growing.end()]) == tokenizer.decode(ids)


@given(
    st.lists(WORDS, max_size=20),
    st.lists(st.sampled_from(["stop", "ab", "aba", "é🎈"]), min_size=1),
)
def test_stops_are_found_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    cutting = StopAt(stops)
    shown = "".join(map(cutting.add, pieces)) + cutting.end()
    text = "".join(pieces)
    places = [text.find(stop) for stop in stops if stop in text]
    # The stop that is complete first ends the text; where two begin earlier, the earlier one.
    if not places:
        assert shown == text and not cutting.found
        return
    assert cutting.found
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert any(text.startswith(stop, len(shown)) for stop in stops)


@pytest.mark.parametrize("chat", [True, False])
def test_special_tokens_are_no_text(chat: bool) -> None:
    tokenizer = build_tokenizer(chat=chat)
    growing = Detokenizer(tokenizer)
    ids = [2, *tokenizer("x = 1", add_special_tokens=False)["input_ids"], 3]
    assert "".join(map(growing.add, ids)) + growing.end() == "x = 1"
