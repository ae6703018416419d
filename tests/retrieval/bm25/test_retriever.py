from __future__ import annotations

import copy
import importlib.util
import itertools
import logging
import pickle
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raggym_env.core import Passage
from raggym_env.data.passages import read_passages
from raggym_env.errors import DataError, MissingExtra, OptionError, RetrievalError, UnknownName
from raggym_env.protocols import Retriever
from raggym_env.retrieval.bm25 import analysis, index
from raggym_env.retrieval.bm25 import retriever as bm25
from raggym_env.retrieval.bm25.analysis import fold
from raggym_env.retrieval.bm25.retriever import KERNEL_BATCH, BM25Retriever


def passages(*texts: str) -> list[Passage]:
    return [Passage(str(number), "", text) for number, text in enumerate(texts)]


def ids(hits) -> list[str]:
    return [hit.passage.id for hit in hits]


def memory(corpus, **options) -> BM25Retriever:
    return BM25Retriever(corpus, store=False, **options)


needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
BACKENDS = pytest.mark.parametrize("backend", ["numpy", pytest.param("numba", marks=needs_numba), "auto"])
ANIMALS = passages("cat dog", "dog dog bird", "fish", "bird cat cat", "")


@BACKENDS
def test_only_passages_with_a_term_of_the_query_are_hits_best_first(backend):
    retriever = memory(ANIMALS, backend=backend)

    [cat, dog, nothing, unknown] = retriever.search(["cat", "dog cat", "?", "zebra"], k=100)

    assert ids(cat) == ["3", "0"]
    assert set(ids(dog)) == {"0", "1", "3"}
    assert nothing == unknown == []
    assert all(a.score >= b.score > 0 for a, b in itertools.pairwise(dog))


@BACKENDS
def test_equal_scores_keep_corpus_order(backend):
    retriever = memory(passages(*["other words"] * 5, *["same text"] * 20), backend=backend)

    [hits] = retriever.search(["same"], k=7)

    assert ids(hits) == [str(number) for number in range(5, 12)]


def test_an_unknown_term_changes_nothing():
    retriever = memory(ANIMALS)
    assert retriever.search(["cat"], 3) == retriever.search(["zebra cat"], 3)


def test_no_queries_give_no_results():
    assert memory(ANIMALS).search([], 3) == []


def test_a_title_is_searched_too():
    retriever = memory([Passage("1", "Rome", "a city"), Passage("2", "Paris", "a city")])
    assert ids(retriever.search(["rome"], 2)[0]) == ["1"]


NAMES = [Passage(str(number), title, "an English band from Zurich") for number, title in enumerate(
    ["The The", "It", "AT&T", "If/Then", "Łódź", "Who Is It (song)", "The Who", "Sæward", "It (novel)"])]  # fmt: skip


@BACKENDS
@pytest.mark.parametrize("title", [passage.title for passage in NAMES])
def test_every_title_is_found_by_itself_by_its_ascii_spelling_and_without_accents(backend, title):
    retriever = memory(NAMES, backend=backend)
    for query in (title, title.upper(), fold(title)):
        assert retriever.search([query], 1)[0][0].passage.title == title


def test_titles_of_stop_words_alone_change_no_score_of_any_other_query():
    texts = ["cat dog", "dog bird the cat", "the fish"]
    named, plain = ([Passage(str(n), title, text) for n, text in enumerate(texts)] for title in ("The It", "?"))
    queries = ["cat", "the dog", "fish of the bird", "who is the cat"]
    for blocks in (3, 4_000_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "BLOCK_TERMS", blocks)
            found = [[(hit.passage.id, hit.score) for hit in hits] for hits in memory(named).search(queries, 9)]
        assert found == [[(hit.passage.id, hit.score) for hit in hits] for hits in memory(plain).search(queries, 9)]
    assert [ids(hits) for hits in memory(named).search(["the", "it", "of"], 9)] == [["2", "0", "1"]] * 2 + [[]]


def test_a_corpus_of_nothing_but_stop_words_in_titles_is_searched():
    retriever = memory([Passage("1", "The The", ""), Passage("2", "It", "")])
    assert [(ids(hits), hits[0].score > 0) for hits in retriever.search(["the the", "it"], 9)] == [
        (["1"], True),
        (["2"], True),
    ]


def test_an_index_of_earlier_rules_is_built_again(tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(analysis, "_RULES_VERSION", analysis._RULES_VERSION - 1)
        earlier.setattr(analysis, "fold", str)
        analysis._memo.cache_clear()
        assert BM25Retriever(NAMES, store=tmp_path).search(["lodz"], 1) == [[]]
    analysis._memo.cache_clear()
    assert ids(BM25Retriever(NAMES, store=tmp_path).search(["lodz"], 1)[0]) == ["4"]


words = st.lists(st.sampled_from(["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]), max_size=8).map(" ".join)


@needs_numba
@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=30), st.lists(words, max_size=12), st.integers(1, 40))
def test_numpy_and_numba_agree_to_the_last_bit(texts, queries, k):
    corpus = passages("ant", *texts)
    numpy, numba = (memory(corpus, backend=backend) for backend in ("numpy", "numba"))
    assert numpy.search(queries, k) == numba.search(queries, k)


@needs_numba
@pytest.mark.parametrize("k", [1, 5, 40])
def test_numpy_and_numba_agree_on_a_skewed_vocabulary(k):
    rng = np.random.default_rng(k)
    corpus = passages(*(" ".join(f"w{i}" for i in rng.zipf(1.2, 20) if i < 3000) for _ in range(3000)))
    queries = [" ".join(f"w{i}" for i in rng.zipf(1.2, 8)) for _ in range(200)]
    numpy, numba = (memory(corpus, backend=backend) for backend in ("numpy", "numba"))
    assert numpy.search(queries, k) == numba.search(queries, k)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, min_size=1, max_size=30), words, st.integers(1, 8))
def test_hits_are_the_best_of_all_passages_by_a_full_sort(texts, query, k):
    corpus = passages("ant", *texts)
    retriever = memory(corpus)
    index, terms = retriever._index, retriever.analyzer(query)
    sums = np.zeros(len(corpus))
    for i in index.ids(terms):
        span = slice(index.starts[i], index.starts[i + 1])
        sums[index.positions[span]] += index.scores[span]

    expected = sorted((-score, position) for position, score in enumerate(sums) if score > 0)[:k]

    [hits] = retriever.search([query], k)
    assert [(-hit.score, int(hit.passage.id)) for hit in hits] == expected


@BACKENDS
def test_a_few_postings_in_a_large_corpus_are_found_as_in_a_small_one(backend):
    corpus = passages(*["filler"] * 500, "rare pearl", *["filler"] * 500, "rare pearl", "rare")
    [hits] = memory(corpus, backend=backend).search(["rare pearl"], 5)
    assert ids(hits) == ["500", "1001", "1002"]
    assert hits == memory(corpus, backend="numpy").search(["rare pearl"], 5)[0]


def test_scores_are_those_of_bm25s():
    corpus = passages("cat dog", "dog dog bird", "fish fish cat", "bird cat cat")
    tokens = [passage.text.split() for passage in corpus]
    reference = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    reference.index(tokens, show_progress=False)

    [hits] = memory(corpus, k1=1.2, b=0.75, stemmer="none").search(["cat bird cat"], 4)

    scores = {int(hit.passage.id): hit.score for hit in hits}
    expected = reference.get_scores(["cat", "bird", "cat"])
    assert scores == pytest.approx({i: score for i, score in enumerate(expected) if score > 0}, rel=1e-6)


@BACKENDS
def test_the_result_of_a_query_does_not_depend_on_its_batch(backend):
    retriever = memory(ANIMALS, backend=backend)
    queries = ["cat", "", "dog bird", "fish", "zebra", "bird"] * KERNEL_BATCH
    assert retriever.search(queries, 3) == [retriever.search([query], 3)[0] for query in queries]


@needs_numba
def test_auto_uses_the_kernel_once_enough_was_searched_to_pay_for_loading_it(monkeypatch):
    sizes = []
    search = bm25._search_numba
    monkeypatch.setattr(bm25, "_search_numba", lambda *request: sizes.append(len(request[1])) or search(*request))
    monkeypatch.setattr(bm25, "KERNEL_AFTER", 4 * len(ANIMALS))
    retriever = memory(ANIMALS)

    results = [retriever.search(["dog cat"], 3) for _ in range(6)]

    assert sizes == [1, 1, 1]
    assert results == results[:1] * 6


def test_threads_searching_at_once_get_right_results():
    rng = np.random.default_rng(0)
    corpus = passages(*(" ".join(f"w{i}" for i in rng.integers(0, 60, 12)) for _ in range(400)))
    retriever = memory(corpus)
    requests = [[f"w{i} w{i + j}" for j in range(1 + 15 * (i % 2))] for i in range(60)]
    expected = [retriever.search(request, 5) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda request: retriever.search(request, 5), requests * 3)) == expected * 3


def test_a_stored_index_is_opened_not_built_and_finds_the_same(tmp_path, monkeypatch):
    built = BM25Retriever(ANIMALS, store=tmp_path)
    monkeypatch.setattr(bm25, "write_index", lambda *_, **__: pytest.fail("built again"))

    opened = BM25Retriever(ANIMALS, store=tmp_path)

    assert opened.search(["dog cat"], 5) == built.search(["dog cat"], 5)
    assert opened.fingerprint == built.fingerprint
    assert isinstance(opened._index.scores.base, np.memmap)


def test_a_stored_index_is_one_that_bm25s_can_load(tmp_path):
    BM25Retriever(ANIMALS, store=tmp_path)
    [folder] = tmp_path.glob("bm25-*/")
    loaded = bm25s.BM25.load(folder, mmap=True)
    assert loaded.scores["num_docs"] == len(ANIMALS)


def test_searching_a_stored_index_imports_neither_bm25s_nor_numba(tmp_path):
    BM25Retriever(ANIMALS, store=tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from raggym_env.core import Passage; from raggym_env.retrieval import make\n"
        f"corpus = [Passage(*fields) for fields in {[tuple(passage) for passage in ANIMALS]!r}]\n"
        f"retriever = make('bm25', corpus, store=Path({str(tmp_path)!r}))\n"
        "assert len(retriever.search(['cat'], 5)[0]) == 2\n"
        "print(sorted({'bm25s', 'numba', 'scipy', 'filelock', 'pyarrow'} & set(sys.modules)))\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_the_fingerprint_changes_with_everything_that_changes_results():
    variants = [
        memory(ANIMALS),
        memory(ANIMALS[::-1]),
        memory(ANIMALS, k1=1.0),
        memory(ANIMALS, b=0.5),
        memory(ANIMALS, title_weight=5),
        memory(ANIMALS, stemmer="none"),
        memory(ANIMALS, stop_words="none"),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert memory(ANIMALS, backend="numpy").fingerprint == memory(ANIMALS, backend="auto").fingerprint


@pytest.mark.parametrize("corpus", [[], passages("", "?!", "the")])
def test_a_corpus_without_words_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match="no word"):
        BM25Retriever(corpus, store=tmp_path)
    assert list(tmp_path.glob("bm25-*/")) == []


@pytest.mark.parametrize("option", [{"k1": -1}, {"k1": "high"}, {"b": 1.5}, {"b": float("nan")}, {"title_weight": 0.5}])
def test_parameters_out_of_range_are_refused_by_name(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        memory(ANIMALS, **option)


def test_an_unknown_back_end_is_refused():
    with pytest.raises(UnknownName, match="numba"):
        memory(ANIMALS, backend="numbra")


def test_unreadable_index_files_are_one_clear_error(tmp_path):
    BM25Retriever(ANIMALS, store=tmp_path)
    [folder] = tmp_path.glob("bm25-*/")
    for file in ("terms.bounds.npy", "data.csc.index.npy", "params.index.json"):
        intact = (folder / file).read_bytes()
        (folder / file).write_bytes(b"\xff" * len(intact))
        with pytest.raises(RetrievalError, match=f"{folder.name}.*Delete this folder"):
            BM25Retriever(ANIMALS, store=tmp_path)
        (folder / file).write_bytes(intact)


def test_no_room_for_temporary_files_is_one_clear_error(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bm25, "write_index", full)
    with pytest.raises(RetrievalError, match=r"No space left.*TMPDIR"):
        memory(ANIMALS)


@pytest.mark.parametrize("stored", [True, False])
def test_a_copy_finds_the_same(stored, tmp_path):
    retriever = BM25Retriever(ANIMALS, store=tmp_path if stored else False)
    for twin in (copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))):  # noqa: S301
        assert twin.search(["dog cat"], 5) == retriever.search(["dog cat"], 5)
        assert isinstance(twin._index.scores.base, np.memmap) == stored


def test_an_index_of_an_earlier_format_is_built_anew_with_the_same_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(bm25, "FORMAT", bm25.FORMAT - 1)
    earlier = BM25Retriever(ANIMALS, store=tmp_path)
    monkeypatch.undo()

    assert BM25Retriever(ANIMALS, store=tmp_path).fingerprint == earlier.fingerprint
    assert len(list(tmp_path.glob("bm25-*/"))) == 2


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # makes importing it fail, as if it were not installed
    bm25._suggest_numba.cache_clear()
    yield
    bm25._suggest_numba.cache_clear()


def test_without_numba_auto_is_numpy_with_the_same_results(no_numba):
    retriever = memory(ANIMALS)
    queries = ["dog cat", "bird", "fish cat"] * KERNEL_BATCH
    assert retriever.backend == "numpy"
    assert retriever.search(queries, 5) == memory(ANIMALS, backend="numpy").search(queries, 5)


def test_without_numba_the_numba_back_end_names_the_extra(no_numba):
    with pytest.raises(MissingExtra, match=r"pip install .*\[fast\]"):
        memory(ANIMALS, backend="numba")


def test_without_numba_large_corpora_log_one_hint(no_numba, monkeypatch, caplog):
    memory(ANIMALS)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    monkeypatch.setattr(bm25, "LARGE_CORPUS", len(ANIMALS))
    memory(ANIMALS, backend="numpy")  # a choice, which needs no advice
    for _ in range(3):
        memory(ANIMALS)

    [hint] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "pip install 'raggym-env[fast]'" in hint
    assert "pip install -c constraints.txt -e '.[fast]'" in hint


@BACKENDS
def test_the_back_end_in_use_is_an_attribute_and_logged(backend, caplog):
    caplog.set_level(logging.INFO)
    retriever = memory(ANIMALS, backend=backend)
    expected = "numpy" if importlib.util.find_spec("numba") is None else backend
    assert retriever.backend == expected
    assert f"bm25 over 5 passages, back end {expected}" in caplog.text


def test_it_is_a_retriever():
    assert isinstance(memory(ANIMALS), Retriever)


@pytest.mark.slow
def test_recall_on_2wiki_is_what_was_measured(real_data: Path):
    import gzip
    import html
    import json

    def plain(title: str) -> str:
        return " ".join(html.unescape(title).split()).casefold()

    folder = real_data / "2wikimultihopqa"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        corpus = [Passage(**json.loads(line)) for line in lines]
    rows = json.loads((folder / "dev_open.json").read_text(encoding="utf-8"))
    retriever = memory(corpus, k1=0.9, b=0.4, title_weight=2)

    recall = []
    for row, hits in zip(rows, retriever.search([row["question"] for row in rows], 5), strict=True):
        gold = {plain(title) for title, _ in row["supporting_facts"]}
        recall.append(len(gold & {plain(hit.passage.title) for hit in hits}) / len(gold))

    assert np.mean(recall) == pytest.approx(0.667, abs=0.005)


# Written out by hand and not taken from `fold`.
ASCII = {
    **{"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "æ": "ae", "Æ": "AE", "œ": "oe", "ı": "i", "ħ": "h"},
    **{"þ": "th", "Þ": "Th", "ð": "d", "Ð": "D", "ß": "ss", "ʻ": ""},
}


@pytest.mark.slow
def test_every_title_of_hotpotqa_with_such_letters_is_found_by_its_ascii_spelling(real_data: Path):
    corpus = list(read_passages(real_data / "hotpotqa" / "corpus.jsonl.gz"))
    titles = sorted({passage.title for passage in corpus if set(passage.title) & set(ASCII)})
    assert len(titles) > 100
    spelled = [unicodedata.normalize("NFKD", title.translate(str.maketrans(ASCII))) for title in titles]
    queries = [text.encode("ascii", "ignore").decode() for text in spelled]
    titles += ["The The", "If/Then", "What Is the What", "This Is It (Michael Jackson song)"]
    hits = memory(corpus).search([*queries, "The The", "if then", "What is the what?", "This is it"], 5)
    assert [t for t, row in zip(titles, hits, strict=True) if t not in {hit.passage.title for hit in row}] == []
