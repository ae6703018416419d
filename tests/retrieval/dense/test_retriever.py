from __future__ import annotations

import gc
import itertools
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from raggym_env.core import Passage
from raggym_env.errors import DataError, IndexMismatch, OptionError, RetrievalError, UnknownName
from raggym_env.protocols import Retriever
from raggym_env.retrieval import make
from raggym_env.retrieval.dense import retriever as dense
from raggym_env.retrieval.dense.encoders import Encoder, EncoderOptions
from raggym_env.retrieval.dense.faiss_index import FlatIndex
from raggym_env.retrieval.dense.retriever import DenseRetriever
from tiny_encoders import WORDS, tiny_bert

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("faiss")

pytestmark = pytest.mark.slow

KINDS = pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])


def random_passages(count: int, seed: int = 0) -> list[Passage]:
    rng = np.random.default_rng(seed)
    drawn = [" ".join(rng.choice(WORDS.split(), rng.integers(3, 12))) for _ in range(count)]
    return [Passage(str(number), text.split()[0], text) for number, text in enumerate(drawn)]


CORPUS = random_passages(120)
QUERIES = ["ant bee", "cat", "elk fox gnu hen", "jay query ibis", "dog dog dog ant passage"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def over(bert, tmp_path):
    """Makes a retriever with the tiny encoder."""

    def retriever(corpus=CORPUS, **options) -> DenseRetriever:
        options = {"model": bert, "like": "e5-base", "device": "cpu", "store": tmp_path / "store", **options}
        return DenseRetriever(corpus, **options)

    return retriever


def ids(hits) -> list[str]:
    return [hit.passage.id for hit in hits]


@pytest.fixture
def counted(monkeypatch):
    """The passages that were embedded, in order, whoever embedded them. Raises at that of id `counted.fail_at`."""

    class Counted(list):
        fail_at = None

    embedded = Counted()
    original = Encoder.passages

    def passages(self):
        embed = original(self)

        def counting(batch):
            if embedded.fail_at in [passage.id for passage in batch]:
                raise KeyboardInterrupt
            embedded.extend(passage.id for passage in batch)
            return embed(batch)

        return counting

    monkeypatch.setattr(Encoder, "passages", passages)
    return embedded


@KINDS
def test_hits_are_the_nearest_passages_best_first(over, bert, kind):
    encoder = Encoder(EncoderOptions(model=bert, like="e5-base", device="cpu"))
    scores = encoder.queries(QUERIES).astype(np.float64) @ encoder.passages()(CORPUS).T

    results = over(index=kind, nprobe=1000).search(QUERIES, 7)

    for hits, row in zip(results, scores, strict=True):
        assert ids(hits) == [str(position) for position in np.argsort(-row, kind="stable")[:7]]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1][:7], rel=2e-5)


@KINDS
def test_copies_of_a_passage_keep_corpus_order_even_where_they_are_many(over, kind, monkeypatch):
    copies = [Passage(f"copy{number}", "ant", "bee") for number in range(60)]
    corpus = [Passage("other", "cat", "dog elk"), *copies, *random_passages(20)]
    embed = Encoder.passages

    def noisy(self):  # later copies are a little nearer, by what an encoder may make of different batches
        return lambda batch: embed(self)(batch) * (1 + 1e-8 * np.arange(len(batch), dtype=np.float32)[:, None])

    monkeypatch.setattr(Encoder, "passages", noisy)
    retriever = over(corpus, index=kind, nlist=1, like="minilm")
    [hits] = retriever.search(["ant bee"], 5)
    assert ids(hits) == [f"copy{number}" for number in range(5)]
    assert len({hit.score for hit in hits}) == 1


def test_the_result_of_a_query_does_not_depend_on_its_batch(over):
    retriever = over()
    queries = [*QUERIES, "", *(passage.text for passage in random_passages(60, seed=5))]
    assert retriever.search(queries, 5) == [retriever.search([query], 5)[0] for query in queries]


def test_the_result_does_not_depend_on_how_the_corpus_was_embedded(over, tmp_path):
    one = over(batch_size=1, shard=7, store=tmp_path / "one").search(QUERIES, 20)
    many = over(batch_size=64, shard=500, store=tmp_path / "many").search(QUERIES, 20)
    assert [ids(hits) for hits in one] == [ids(hits) for hits in many]


@KINDS
def test_more_passages_than_there_are_is_all_of_them(over, kind):
    [hits] = over(CORPUS[:9], index=kind, nprobe=99).search(["ant"], 50)
    assert sorted(map(int, ids(hits))) == list(range(9))
    assert all(a.score >= b.score for a, b in itertools.pairwise(hits))


def test_an_approximate_index_may_find_fewer_and_no_hit_is_made_up(over):
    [hits] = over(index="ivf", nlist=30, nprobe=1).search(["ant bee"], 100)
    assert 0 < len(hits) < 100
    assert len(set(ids(hits))) == len(hits)


def test_a_blank_query_finds_nothing_and_no_queries_give_no_results(over):
    retriever = over(CORPUS[:5])
    [nothing, something, blank] = retriever.search(["", "ant", " \n"], 3)
    assert (nothing, len(something), blank) == ([], 3, [])
    assert retriever.search([], 3) == []


def test_a_query_longer_than_the_encoder_reads_is_cut_off(over):
    retriever = over(CORPUS[:20])
    assert retriever.search(["ant " * 2000], 3) == retriever.search(["ant " * 1000], 3)


@pytest.mark.parametrize(("queries", "k"), [("ant", 3), (["ant"], 0), (["ant"], -1)])
def test_a_wrong_request_is_refused(over, queries, k):
    with pytest.raises(RetrievalError, match=r"search takes a list|k must be"):
        over(CORPUS[:5]).search(queries, k)


def test_an_empty_corpus_is_refused(over, tmp_path):
    with pytest.raises(DataError, match="no passages"):
        over([])
    assert not (tmp_path / "store").exists()


@KINDS
def test_a_stored_index_is_opened_and_not_built_again(over, monkeypatch, counted, kind):
    built = over(index=kind)
    monkeypatch.setattr(dense, "build_index", lambda *_: pytest.fail("built again"))

    opened = over(index=kind)

    assert len(counted) == len(CORPUS)
    assert opened.search(QUERIES, 5) == built.search(QUERIES, 5)
    assert opened.fingerprint == built.fingerprint


def test_all_kinds_of_index_use_the_same_embeddings(over, counted):
    for kind in ("flat", "hnsw", "ivf"):
        over(index=kind)
    assert counted == [passage.id for passage in CORPUS]


def test_an_interrupted_build_resumes_with_the_next_shard(over, counted, tmp_path):
    counted.fail_at = "70"
    with pytest.raises(KeyboardInterrupt):
        over(shard=16)
    assert counted == [str(number) for number in range(64)]

    counted.fail_at = None
    resumed = over(shard=50)

    assert counted == [str(number) for number in range(120)]
    assert resumed.search(QUERIES, 5) == over(store=tmp_path / "other").search(QUERIES, 5)
    assert list((tmp_path / "store").glob("*.shards")) == []


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from raggym_env.core import Passage
from raggym_env.retrieval.dense import retriever as dense

class Encoder:
    def passages(self):
        return self.embed
    def embed(self, batch):
        print(*[passage.id for passage in batch], flush=True)
        if sys.argv[2] in [passage.id for passage in batch]:
            (next(Path(sys.argv[1]).glob("*.shards")) / "0000000060-0000000090.npy.partial").write_bytes(b"half")
            os._exit(9)
        return np.array([[float(passage.id)] for passage in batch], np.float32)

corpus = [Passage(str(number), "", "") for number in range(120)]
vectors = dense._open_vectors(corpus, Encoder(), {"dtype": "float32"}, 30, Path(sys.argv[1]))
assert vectors.rows(np.arange(120)).ravel().tolist() == list(range(120))
"""


def test_a_killed_build_resumes_with_the_next_shard(tmp_path):
    def run(die_at):
        command = [sys.executable, "-c", KILLED, str(tmp_path), die_at]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    killed, resumed = run("70"), run("never")

    assert (killed.returncode, resumed.returncode) == (9, 0), resumed.stderr
    assert [line.split()[0] for line in killed.stdout.splitlines()] == ["0", "30", "60"]
    assert [line.split()[0] for line in resumed.stdout.splitlines()] == ["60", "90"]
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == ["", ".lock"]


def test_a_full_disk_after_the_embedding_does_not_lose_it(over, counted, monkeypatch):
    def full(source, target):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dense.os, "link", full)
        patch.setattr(dense.shutil, "copyfile", full)
        with pytest.raises(RetrievalError, match="No space left"):
            over()
    over()

    assert len(counted) == len(CORPUS)


def test_vectors_are_mapped_from_float16_or_float32_files(over):
    for dtype in ("float32", "float16"):
        retriever = over(dtype=dtype)
        assert retriever._vectors.dtype == dtype
        assert isinstance(retriever._index, FlatIndex)
        assert all(isinstance(shard.base, np.memmap) for shard in retriever._vectors._shards)


def test_half_precision_hardly_changes_scores(over):
    for full, half in zip(over().search(QUERIES, 1), over(dtype="float16").search(QUERIES, 1), strict=True):
        assert full[0].score == pytest.approx(half[0].score, abs=2e-3)


def test_vectors_that_half_precision_cannot_hold_are_refused(over, monkeypatch):
    monkeypatch.setattr(Encoder, "passages", lambda self: lambda batch: np.full((len(batch), 16), 1e6, np.float32))
    with pytest.raises(RetrievalError, match="float16 cannot hold"):
        over(dtype="float16")


def test_the_fingerprint_changes_with_everything_that_changes_results(over, tmp_path):
    variants = [
        over(),
        over(CORPUS[:-1]),
        over(model=tiny_bert(tmp_path / "other", seed=1)),
        over(like="contriever"),
        over(like="bge-base"),
        over(max_length=10),
        over(dtype="float16"),
        over(index="hnsw"),
        over(index="hnsw", m=8),
        over(index="hnsw", ef_construction=50),
        over(index="hnsw", ef_search=50),
        over(index="ivf"),
        over(index="ivf", nlist=2),
        over(index="ivf", nprobe=3),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    same = over(batch_size=3, shard=5, nprobe=7, m=9)  # a flat index has neither
    assert same.fingerprint == variants[0].fingerprint


@KINDS
def test_threads_searching_at_once_get_right_results(over, kind):
    retriever = over(index=kind)
    requests = [QUERIES[: 1 + number % 5] for number in range(40)]
    expected = [retriever.search(request, 5) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda request: retriever.search(request, 5), requests)) == expected


@KINDS
def test_a_pickled_retriever_opens_the_same_index(over, counted, kind):
    retriever = over(index=kind)
    copy = pickle.loads(pickle.dumps(retriever))  # noqa: S301  # our own
    assert len(counted) == len(CORPUS)
    assert copy.fingerprint == retriever.fingerprint
    assert copy.search(QUERIES, 3) == retriever.search(QUERIES, 3)


def test_without_a_store_no_files_are_left(over, tmp_path, monkeypatch):
    monkeypatch.setattr(dense.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    retriever = over(store=False, index="hnsw")
    assert retriever.search(QUERIES, 3) == over(index="hnsw").search(QUERIES, 3)
    assert list((tmp_path / "temporary").iterdir()) != []

    del retriever
    gc.collect()

    assert list((tmp_path / "temporary").iterdir()) == []


def test_embeddings_by_another_encoder_are_refused(over, tmp_path):
    over()
    [manifest] = (tmp_path / "store").glob("embeddings-*/manifest.json")
    content = json.loads(manifest.read_text())
    content["key"]["encoder"]["prefix"] = "other: "
    manifest.write_text(json.dumps(content))
    with pytest.raises(IndexMismatch, match=r"key\.encoder\.prefix is 'other: ' there and 'passage: ' here"):
        over()


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"index": "hnws"}, UnknownName),
        ({"dtype": "int8"}, UnknownName),
        ({"model": "minilmm", "like": None}, UnknownName),
        ({"shard": 0}, OptionError),
        ({"m": 1}, OptionError),
        ({"max_length": 2}, OptionError),
        ({"store": 7}, OptionError),
        ({"index": "ivf", "nlist": 1000}, OptionError),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_built(over, tmp_path, option, error):
    with pytest.raises(error):
        over(**option)
    assert not (tmp_path / "store").exists()


def test_it_is_a_retriever_with_a_name(bert, tmp_path):
    retriever = make("dense", CORPUS[:3], model=str(bert), like="minilm", store=tmp_path)
    assert isinstance(retriever, Retriever)
    with pytest.raises(OptionError, match=r"Did you mean 'nprobe'.*Its options: model, .*batch_size, index, .*store"):
        make("dense", CORPUS[:3], nprobes=3)


TOWNS = [
    Passage("1", "Rome", "Rome is the capital and largest city of Italy."),
    Passage("2", "Paris", "Paris lies on the Seine and is the seat of the French government."),
    Passage("3", "Titanic", "Titanic is a 1997 American romance film written and directed by James Cameron."),
    Passage("4", "Aspirin", "Aspirin is a drug used to reduce pain, fever and inflammation."),
    Passage("5", "Mars", "Mars is the fourth planet from the Sun."),
]


def test_the_real_encoder_finds_passages_by_meaning_as_brute_force_does(small_encoder, tmp_path):
    from sentence_transformers import SentenceTransformer

    queries = ["Which movie did the maker of Avatar shoot about a ship?", "medicine against headache", "red planet"]
    reference = SentenceTransformer(str(small_encoder), device="cpu")
    scores = reference.encode(queries) @ reference.encode([f"{town.title} {town.text}" for town in TOWNS]).T

    results = DenseRetriever(TOWNS, model=small_encoder, like="minilm", device="cpu", store=tmp_path).search(queries, 5)

    assert [hits[0].passage.title for hits in results] == ["Titanic", "Aspirin", "Mars"]
    for hits, row in zip(results, scores, strict=True):
        assert ids(hits) == [TOWNS[position].id for position in np.argsort(-row)]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(row)[::-1], abs=1e-4)


def test_prebuilt_vectors_of_a_flat_faiss_index_replace_computed_ones(bert, over, tmp_path, monkeypatch):
    import faiss

    computed = over()
    vectors = Encoder(EncoderOptions(model=bert, like="e5-base", device="cpu")).passages()(CORPUS)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    path = tmp_path / "user" / "flashrag" / "e5_Flat.index"
    path.parent.mkdir(parents=True)
    faiss.write_index(index, str(path))
    monkeypatch.setattr(Encoder, "passages", None)
    prebuilt = over(vectors=path)
    assert prebuilt.search(QUERIES, 7) == computed.search(QUERIES, 7)
    assert prebuilt.fingerprint != computed.fingerprint
    monkeypatch.setenv("RAGGYM_DATA", str(tmp_path / "user"))
    assert over(vectors="wiki-18-e5").fingerprint == prebuilt.fingerprint
    assert over(vectors=path, index="hnsw").search(QUERIES, 3) == computed.search(QUERIES, 3)
    with pytest.raises(RetrievalError, match="119 passages"):
        over(CORPUS[1:], vectors=path)
    with pytest.raises(OptionError, match="float32 with prebuilt vectors"):
        over(vectors=path, dtype="float16")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RetrievalError, match="must be a flat FAISS index"):
        over(vectors=path)
    path.write_bytes(b"")
    with pytest.raises(RetrievalError, match="it is empty"):
        over(vectors=path)
    path.unlink()
    with pytest.raises(DataError, match="raggym data get wiki-18-e5"):
        over(vectors="wiki-18-e5")


@pytest.mark.parametrize("options", [
    {"index": "hnsw", "quantization": "int8"},
    {"index": "ivf", "nlist": 4, "nprobe": 4, "quantization": "int8"},
    {"index": "ivf", "nlist": 4, "nprobe": 4, "quantization": "pq", "pq_bytes": 4},
])  # fmt: skip
def test_a_quantized_index_gives_the_hits_and_scores_of_the_vectors_if_enough_are_scored_again(over, options):
    corpus = random_passages(300)
    exact = over(corpus).search(QUERIES, 5)
    quantized = over(corpus, **options, rescored=300)
    assert quantized.search(QUERIES, 5) == exact
    scores = {hit.passage.id: hit.score for hit in over(corpus).search(QUERIES[:1], 300)[0]}
    [few] = over(corpus, **options, rescored=5).search(QUERIES[:1], 5)
    assert [hit.score for hit in few] == [scores[hit.passage.id] for hit in few]
