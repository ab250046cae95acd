"""Many rows: kept in files, worked on by several processes, compared without comparing all."""

import json
import random

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veritune.config import ContaminationSection, DataSection
from veritune.data import (
    dedupe,
    leak_audit,
    near_duplicates,
    row_store,
    shingle_sets,
    similar_pairs,
    spill,
)
from veritune.data.compared import Compared
from veritune.data.dedupe import find_clusters
from veritune.data.disjoint_sets import DisjointSets
from veritune.data.leak_audit import SIDES, audit, nearest_rows
from veritune.data.prepare import prepare, write_prepared
from veritune.data.raw_rows import RawRow
from veritune.data.row_store import RowStore, RowWriter
from veritune.data.spill import GrowingArray
from veritune.data.workers import Workers
from veritune.rows import Example, read_examples, write_examples

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
ANY_ROW = st.builds(
    RawRow,
    ANY_TEXT,
    ANY_TEXT,
    ANY_TEXT,
    st.lists(ANY_TEXT, max_size=2).map(tuple),
    ANY_TEXT,
    ANY_TEXT,
    ANY_TEXT,
)
WORDS = [f"w{number}" for number in range(400)]


def made_rows(count, seed=0):
    """Rows of which every fifth is a near-copy of an earlier one, as questions or as answers."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        if number % 5 == 4:
            origin = rows[chance.randrange(number)]
            question, answer = origin["instruction"].split(), origin["output"].split("\n")
            question[chance.randrange(len(question))] = "changed"
            answer.insert(chance.randrange(len(answer) + 1), f"print({chance.randrange(1000)})")
            if chance.random() < 0.5:
                answer = [line.replace("total", "result") for line in answer]
        else:
            question = chance.choices(WORDS, k=chance.randint(6, 14))
            answer = [
                f"{chance.choice(['total', 'found'])} = {chance.choice(WORDS)}"
                f".{chance.choice(WORDS)}({chance.randrange(50)}, {chance.choice(WORDS)!r})"
                for _ in range(chance.randint(2, 9))
            ]
        output = "\n".join(answer)
        rows.append({"instruction": " ".join(question), "input": "", "output": output})
    return rows


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def jaccards(texts, size):
    """(rows, rows) Jaccard similarities from Python's own sets."""
    sets = [{tuple(t[i : i + size]) for i in range(len(t) - size + 1)} for t in texts]
    result = np.zeros((len(sets), len(sets)))
    for one, first in enumerate(sets):
        for two, second in enumerate(sets[:one]):
            shared = len(first & second)
            if shared:
                result[one, two] = shared / (len(first) + len(second) - shared)
    return result


def brute_force(canonical):
    """As the clusters and the audit define similarity, for all pairs below the diagonal."""
    words = [text.words for text in canonical]
    is_long = np.asarray([len(text) >= 40 for text in words])
    both_long = is_long[:, None] & is_long[None, :]
    result = np.where(both_long, jaccards(words, 5), jaccards(words, 2))
    keys = np.asarray([text.key for text in canonical])
    return np.where(keys[:, None] == keys[None, :], 1.0, result)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_ROW, max_size=9), st.data())
def test_a_store_gives_back_any_rows(rows, data):
    store = RowStore.of(rows)
    assert store == rows and rows == store and len(store) == len(rows)
    assert [*store] == rows
    cut = slice(data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9)))
    assert store[cut] == rows[cut]
    places = data.draw(st.lists(st.integers(0, max(0, len(rows) - 1)), max_size=6)) if rows else []
    chosen = store.take(places)
    assert chosen == [rows[place] for place in places]
    assert RowStore.joined([chosen, store, chosen]) == [*chosen, *rows, *chosen]
    assert [store[place] for place in range(len(rows))] == rows
    assert store != [*rows, RawRow("one", "more", "row")]


def test_rows_and_numbers_beyond_the_limit_live_in_files_that_nobody_sees(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "_IN_MEMORY_BYTES", 2000)
    monkeypatch.setattr(row_store, "BATCH_ROWS", 7)
    monkeypatch.setattr(spill.tempfile, "tempdir", str(tmp_path))
    rows = [RawRow(f"question {n}", "", f"answer {n} \ud800", source=f"row {n}") for n in range(99)]
    writer = RowWriter()
    for row in rows:
        writer.add(row)
    store = writer.finish()
    assert store == rows and store.take([98, 3, 3]) == [rows[98], rows[3], rows[3]]
    numbers = GrowingArray(np.uint64)
    for start in range(0, 3000, 100):
        numbers.append(np.arange(start, start + 100))
    found = numbers.finish()
    assert isinstance(found, np.memmap) and found.tolist() == [*range(3000)]
    assert not [*tmp_path.iterdir()]


def test_a_batch_of_huge_cells_is_a_small_batch():
    rows = [RawRow(f"{n}", "", "x" * 1_000_000) for n in range(40)]
    batches = [*RowStore.of(rows).batches()]
    assert max(batch.nbytes for batch in batches) < 20e6
    assert [row for batch in batches for row in row_store.rows_of(batch)] == rows


@pytest.mark.slow
def test_batches_come_back_in_order_and_a_fault_ends_them(tmp_path, monkeypatch, capfd):
    others = set(psutil.Process().children())  # a browser of another test, say
    program = """
import pyarrow as pa
def times(*, factor=2, fails_at=-1):
    def work(batch):
        print("noise")  # must not end up among the results
        numbers = batch.column("n").to_pylist()
        if fails_at in numbers:
            raise ValueError("no")
        return pa.RecordBatch.from_pydict({"n": [factor * n for n in numbers]})
    return work
"""
    (tmp_path / "some_work.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    batches = [pa.RecordBatch.from_pydict({"n": [n, n + 1]}) for n in range(0, 60, 2)]
    for processes in (1, 3):
        with Workers(processes) as workers:
            # The same processes do one work after another, also after one without batches.
            for given, factor in ((batches, 2), ([], 2), (batches[:1], 2), (batches, 5)):
                done = workers.map("some_work:times", {"factor": factor}, iter(given), 60)
                expected = [factor * n for batch in given for n in batch.column("n").to_pylist()]
                assert [n for batch in done for n in batch.column("n").to_pylist()] == expected
    with Workers(2) as workers:
        with pytest.raises(RuntimeError, match="worker process ended"):
            [*workers.map("some_work:times", {"fails_at": 30}, batches, 60)]
        assert "ValueError: no" in capfd.readouterr().err
        # A caller that stops early leaves no process and no waiting thread behind.
        first = workers.map("some_work:times", {}, batches, 60)
        assert next(first).num_rows == 2
        first.close()
        assert set(psutil.Process().children()) == others
        assert len([*workers.map("some_work:times", {}, batches, 60)]) == len(batches)
    assert set(psutil.Process().children()) == others


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), min_size=2, max_size=14),
    st.sampled_from([0.5, 0.6, 0.7, 0.85, 1.0]),
    st.integers(1, 3),
    st.integers(1, 13),
)
def test_similar_pairs_are_those_of_brute_force(texts, threshold, size, n_group):
    shingles = near_duplicates.Shingles(texts)
    group = np.arange(min(n_group, len(texts) - 1))
    asked = np.arange(len(group), len(texts))
    index = similar_pairs.SimilarPairs(shingles.sets(size), group, threshold)
    found = {
        (int(asked[place]), int(other)): value
        for places, others, values in index.of(asked)
        for place, other, value in zip(places, others, values, strict=True)
    }
    expected = jaccards(texts, size)
    similar = {
        (one, two)
        for one in asked.tolist()
        for two in group.tolist()
        if expected[one, two] >= threshold
    }
    assert set(found) == similar
    for (one, two), value in found.items():
        assert value == pytest.approx(expected[one, two])


def test_large_groups_are_cut_into_parts_that_miss_nothing(monkeypatch):
    rows = made_rows(150)
    texts = Compared.of([RawRow(row["instruction"], "", row["output"]) for row in rows])
    sets = texts.answer_shingles.sets(2)

    def pairs():
        index = similar_pairs.SimilarPairs(sets, np.arange(100), 0.5)
        return sorted(
            (int(one), int(two))
            for ones, twos, _ in index.of(np.arange(100, 150))
            for one, two in zip(ones, twos, strict=True)
        )

    whole = pairs()
    assert len(whole) > 5
    monkeypatch.setattr(similar_pairs, "_CHUNK", 50)
    monkeypatch.setattr(similar_pairs, "_PAIRS_TOGETHER", 3)
    monkeypatch.setattr(similar_pairs, "_COMPARED_TOGETHER", 2)
    monkeypatch.setattr(shingle_sets, "_ROWS_TOGETHER", 20)
    monkeypatch.setattr(shingle_sets, "_BLOCK_WORDS", 100)
    assert pairs() == whole


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_joined_positions_are_those_that_a_path_connects(size, pairs):
    pairs = [(one % size, two % size) for one, two in pairs]
    sets = DisjointSets(size)
    half = len(pairs) // 2
    for some in (pairs[:half], pairs[half:]):
        array = np.asarray(some, dtype=np.int64).reshape(-1, 2)
        sets.join(array[:, 0], array[:, 1])
    label = [*range(size)]
    for _ in range(size):
        for one, two in pairs:
            label[one] = label[two] = min(label[one], label[two])
    order = {root: number for number, root in enumerate(sorted(set(label)))}
    assert sets.numbers().tolist() == [order[root] for root in label]


def test_nearly_every_similar_pair_shares_its_cluster():
    rows = [RawRow(row["instruction"], "", row["output"]) for row in made_rows(700)]
    texts = Compared.of(rows)
    ids = np.asarray(find_clusters(rows).ids)
    same = ids[:, None] == ids[None, :]
    for canonical in (texts.questions, texts.answers):
        similar = brute_force(canonical) >= 0.8
        assert similar.sum() > 700  # the diagonal counts
        assert (similar & same).sum() / similar.sum() >= 0.98
        off_diagonal = similar & ~np.eye(len(rows), dtype=bool)
        assert (off_diagonal & same).sum() / off_diagonal.sum() >= 0.98


def test_what_minhash_misses_is_joined_all_the_same(monkeypatch):
    monkeypatch.setattr(dedupe, "_FEW_BANDS", 1)
    made = made_rows(700, seed=2)
    # Questions of their own, so that nothing but the answers joins two rows.
    rows = [RawRow(f"question{n} of{n}", "", row["output"]) for n, row in enumerate(made)]
    ids = np.asarray(find_clusters(rows).ids)
    similar = brute_force(Compared.of(rows).answers) >= 0.7
    assert similar.sum() > 750
    assert (ids[:, None] == ids[None, :])[similar].all()


def test_the_audit_of_many_rows_finds_what_that_of_few_does(monkeypatch):
    rows = [RawRow(row["instruction"], "", row["output"]) for row in made_rows(400)]
    texts = Compared.of(rows)
    splits = ["test" if n % 4 == 0 else "validation" if n % 4 == 1 else "train" for n in range(400)]
    names = [str(n) for n in range(400)]
    train, held_out = ([n for n in range(400) if (n % 4 > 1) == is_train] for is_train in (1, 0))
    exact = {
        side: nearest_rows(rows, texts, train, held_out, side=side)
        for side in ("question", "answer")
    }
    whole = audit(rows, texts, splits, names)
    monkeypatch.setattr(leak_audit, "_MAX_PAIRS", 0)
    monkeypatch.setattr(leak_audit, "_N_SAMPLED", 40)
    for side, expected in exact.items():
        found = nearest_rows(rows, texts, train, held_out, side=side)
        near = [pair for pair in expected if pair.similarity >= leak_audit.FLOOR]
        assert len(near) > 10
        assert [pair for pair in found if pair.similarity >= leak_audit.FLOOR] == near
    estimated = audit(rows, texts, splits, names)
    assert estimated["worst"] == whole["worst"]
    for split in ("validation", "test"):
        for side in SIDES:
            shares = dict(estimated[split][side])
            assert shares.pop("n_of_median") < 40
            median = shares.pop("median")
            expected = dict(whole[split][side])
            assert median == pytest.approx(expected.pop("median"), abs=0.1)
            assert shares == expected


@pytest.mark.slow
def test_the_files_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    rows = made_rows(600)
    monkeypatch.setattr(row_store, "_BATCH_BYTES", 20_000)
    rows[7]["output"] = rows[8]["output"] = "```python\nprint('twins')   \n```"
    rows[8]["instruction"], rows[9]["output"] = rows[7]["instruction"], "print('\ud800')"
    source = written(tmp_path / "rows.jsonl", [*rows, *rows[:300]])
    task = {"text": f"{rows[3]['instruction']} with a list", "code": rows[3]["output"]}
    task |= {"task_id": 1, "test_setup_code": "", "test_list": ["assert total"]}
    tasks = written(tmp_path / "tasks.jsonl", [{**task, "challenge_test_list": []}])
    section = DataSection(
        source=str(source), contamination=ContaminationSection(against=[str(tasks)])
    )
    written_by = {}
    for processes, in_memory in ((1, 1 << 30), (2, 10_000)):
        monkeypatch.setattr(spill, "_IN_MEMORY_BYTES", in_memory)
        prepared = prepare(section, seed=3, processes=processes)
        assert prepared.card["contamination"]["n_rows"] >= 1
        folder = tmp_path / f"{processes}-{in_memory}"
        write_prepared(prepared, folder)
        written_by[folder] = {path.name: path.read_bytes() for path in folder.iterdir()}
    first, *others = written_by.values()
    assert len(first) == 5
    assert all(other == first for other in others)


def test_no_cluster_of_made_rows_and_their_copies_is_split(tmp_path):
    rows = made_rows(300, seed=5)
    copies = [
        {**row, "output": row["output"].replace("total", "answer").replace("found", "other")}
        for row in rows[:50]
    ]
    source = written(tmp_path / "rows.jsonl", [*rows, *rows, *copies])
    prepared = prepare(DataSection(source=str(source)), seed=0)
    assert prepared.card["n_exact_duplicates"] >= 300
    examples = [*prepared.examples]
    texts = Compared.of([RawRow(row.instruction, row.input, row.reference) for row in examples])
    splits = np.asarray([row.split for row in examples])
    apart = splits[:, None] != splits[None, :]
    held_out = (splits != "train")[:, None] | (splits != "train")[None, :]
    for canonical in (texts.questions, texts.answers):
        similarity = brute_force(canonical)
        assert ((similarity >= 0.7) & ~apart).sum() > len(examples)
        assert similarity[apart & held_out].max() < 0.7


def test_examples_are_written_in_groups(tmp_path):
    examples = [
        Example(f"e{n}", f"c{n}", "train", f"q{n}", "", f"a{n}", ("assert 1",) * (n % 3))
        for n in range(20_000)
    ]
    write_examples(tmp_path / "a.parquet", (example for example in examples))
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2
    assert read_examples(tmp_path / "a.parquet") == examples
    write_examples(tmp_path / "b.parquet", [])
    assert read_examples(tmp_path / "b.parquet") == []


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), min_size=2, max_size=14),
    st.sampled_from([0.5, 0.7, 1.0]),
    st.integers(1, 3),
    st.lists(st.integers(0, 4), min_size=14, max_size=14),
    st.integers(1, 14),
)
def test_pairs_of_different_labels_come_once(texts, threshold, size, labels, n_asked):
    shingles = near_duplicates.Shingles(texts)
    group, asked = np.arange(len(texts)), np.arange(len(texts))[-n_asked:]
    labels = [label % len(texts) for label in labels]
    index = similar_pairs.SimilarPairs(
        shingles.sets(size), group, threshold, np.asarray(labels[: len(texts)])
    )
    found = [
        frozenset((int(asked[place]), int(other)))
        for places, others, _ in index.of(asked, once=True)
        for place, other in zip(places, others, strict=True)
    ]
    expected = jaccards(texts, size)
    assert len(found) == len(set(found))
    assert set(found) == {
        frozenset((one, two))
        for one in range(len(texts))
        for two in range(one)
        if expected[one, two] >= threshold and labels[one] != labels[two] and one in asked
    }
