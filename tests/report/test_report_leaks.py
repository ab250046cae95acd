from veritune.report.leaks import make_leaks


def audit(n_rows=50, worst=()):
    shares = {"percent_ge_0.7": 4.0, "percent_ge_0.9": 2.5, "percent_exact": 0.0}
    split = {"n_rows": n_rows, "question": shares, "answer": shares}
    return {"validation": {"n_rows": 0}, "test": split, "worst": list(worst)}


def test_shares_and_pairs_are_shown():
    row = {"source": "row 3", "instruction": "Ask", "input": "this", "reference": "x = 1\u202e"}
    pair = {"split": "test", "side": "answer", "similarity": 0.913, "held_out": row, "train": {}}
    leaks = make_leaks({"leak_audit": audit(worst=[pair])})
    assert leaks.shares[0] == ("test", "question", "4 %", "2.5 %", "0 %")
    assert len(leaks.shares) == 2
    assert leaks.pairs[0].title == "0.91 by answer: Ask"
    where, question, answer = leaks.pairs[0].texts[0]
    assert (where, question) == ("test, row 3", "Ask\n\nthis")
    assert "\u202e" not in answer
    assert leaks.contamination == ""


def test_contamination_is_one_sentence():
    def sentence(**found):
        return make_leaks({"leak_audit": audit(), "contamination": found}).contamination

    assert sentence(against=["humaneval"], n_rows=0) == "No row repeats a task of humaneval."
    assert sentence(against=["humaneval"], n_rows=1, n_dropped=1).startswith("1 row repeats")
    assert sentence(against=[], n_rows=0) == ""


def test_cards_without_an_audit_and_damaged_ones_show_none():
    assert make_leaks({}) is None
    for damaged in ([], {"test": 3}, {"test": {"n_rows": "x", "question": 4}}, audit(n_rows=0)):
        assert make_leaks({"leak_audit": damaged}) is None


def test_what_differs_between_near_copies_is_marked_and_the_rest_escaped():
    held_out = {"source": "row 1", "instruction": "Add <b>one</b>", "reference": "x = y + 1"}
    train = {"source": "row 2", "instruction": "Add <b>one</b>", "reference": "x = y + 2"}
    pair = {"split": "test", "similarity": 0.9, "held_out": held_out, "train": train}
    (shown,) = make_leaks({"leak_audit": audit(worst=[pair])}).pairs
    assert [texts[0] for texts in shown.texts] == ["test, row 1", "train, row 2"]
    assert shown.texts[0][1] == "Add &lt;b&gt;one&lt;/b&gt;"
    assert shown.texts[0][2] == "x = y + <mark>1</mark>"
    assert shown.texts[1][2] == "x = y + <mark>2</mark>"


def test_ten_pairs_are_shown():
    pair = {"split": "test", "similarity": 0.9, "held_out": {}, "train": {}}
    assert len(make_leaks({"leak_audit": audit(worst=[pair] * 12)}).pairs) == 10
