from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from raggym_env.core import Passage
from raggym_env.errors import OptionError, RetrievalError
from raggym_env.protocols import Retriever
from raggym_env.retrieval import make
from raggym_env.retrieval.dense.rerank import RerankRetriever
from raggym_env.testing import ScriptedRetriever, check_retriever

TOWNS = [Passage(str(i), f"Town {i % 9}", f"On the river number {i % 5}, mile {i}.") for i in range(60)]
BM25 = {"name": "bm25", "store": False}


class Scripted:
    """Scores passages by a table of titles and records its calls."""

    def __init__(self, scores, default=0.0):
        self.scores, self.default = scores, default
        self.calls = []

    def score(self, query, passages):
        self.calls.append((query, [passage.title for passage in passages]))
        return [self.scores.get(passage.title, self.default) for passage in passages]


def reranked(titles, scorer, **options) -> RerankRetriever:
    return RerankRetriever([], retriever=ScriptedRetriever({}, default=titles), model=scorer, **options)


def titles(hits) -> list[str]:
    return [hit.passage.title for hit in hits]


def test_passages_come_in_the_order_of_the_models_scores():
    retriever = reranked("abc", Scripted({"a": -1.5, "b": 2.0, "c": 0.5}))
    [hits] = retriever.search(["q"], 2)
    assert [(hit.passage.title, hit.score) for hit in hits] == [("b", 2.0), ("c", 0.5)]


def test_equal_scores_keep_the_first_retrievers_order():
    retriever = reranked("dcba", Scripted({"a": 1.0}))
    assert titles(retriever.search(["q"], 9)[0]) == ["a", "d", "c", "b"]


def test_only_the_depth_best_are_scored_and_only_they_are_returned():
    scorer = Scripted({"c": 9.0})
    retriever = reranked("abc", scorer, depth=2)
    assert titles(retriever.search(["q"], 1)[0]) == ["a"]
    assert titles(retriever.search(["q"], 2)[0]) == ["a", "b"]
    assert scorer.calls == [("q", ["a", "b"])] * 2


def test_a_k_above_the_depth_is_the_depth():
    assert titles(reranked("abc", Scripted({"c": 9.0}), depth=2).search(["q"], 3)[0]) == ["c", "a", "b"]


def test_the_retriever_is_called_once_for_the_whole_batch_and_the_model_once_for_each_query():
    first, scorer = ScriptedRetriever({"p": ["a"], "q": ["b", "c"], "nothing": []}), Scripted({})
    results = RerankRetriever([], retriever=first, model=scorer).search(["p", "nothing", "q"], 5)
    assert first.calls == [["p", "nothing", "q"]]
    assert scorer.calls == [("p", ["a"]), ("q", ["b", "c"])]
    assert [titles(hits) for hits in results] == [["a"], [], ["b", "c"]]


def test_no_queries_cause_no_search():
    first = ScriptedRetriever({})
    assert RerankRetriever([], retriever=first, model=Scripted({})).search([], 5) == []
    assert first.calls == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_failure_and_not_a_rank(bad):
    with pytest.raises(RetrievalError, match="Scripted must give one finite score"):
        reranked("ab", Scripted({"a": bad})).search(["q"], 1)


def test_a_score_too_few_is_a_failure():
    class Short(Scripted):
        def score(self, query, passages):
            return super().score(query, passages)[1:]

    with pytest.raises(RetrievalError, match="for each of 2 passages"):
        reranked("ab", Short({})).search(["q"], 1)


def test_a_failure_of_the_retriever_names_it():
    first = ScriptedRetriever({}, fails=["q"])
    with pytest.raises(RetrievalError, match="'ScriptedRetriever' failed"):
        RerankRetriever([], retriever=first, model=Scripted({})).search(["q"], 1)


def test_any_retriever_can_be_reranked_and_the_whole_be_fused():
    fused = {"name": "rrf", "retrievers": [BM25, {**BM25, "k1": 0.9}]}
    rerank = {"retriever": fused, "model": Scripted({"Town 3": 1.0})}
    assert titles(make("rerank", TOWNS, **rerank).search(["river number 2"], 1)[0]) == ["Town 3"]
    retriever = make("rrf", TOWNS, retrievers=[{"name": "rerank", **rerank}, BM25])
    check_retriever(retriever, ["town 3", "river", "", "number 4 river town 2"])


def test_the_fingerprint_changes_with_the_retriever_the_model_and_the_depth():
    class Other(Scripted):
        fingerprint = "other"

    model = Scripted({})
    variants = [
        RerankRetriever(TOWNS, retriever=BM25, model=model),
        RerankRetriever(TOWNS, retriever={**BM25, "k1": 0.9}, model=model),
        RerankRetriever(TOWNS, retriever=BM25, model=Other({})),
        RerankRetriever(TOWNS, retriever=BM25, model=model, depth=10),
        RerankRetriever(TOWNS[:30], retriever=BM25, model=model),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be a whole number"),
        ({"model": 7}, "model must be a name, a folder or an object with a score method, got 7"),
        ({"retriever": 7}, "got 7"),
        ({"model": "m", "batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=message):
        RerankRetriever(TOWNS, **{"retriever": BM25, "model": Scripted({}), **options})


# --- a cross-encoder -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """A tiny random BERT that scores pairs, saved as sentence-transformers and the hub have them."""
    return save(tmp_path_factory.mktemp("cross-encoder"), "BertForSequenceClassification")


def save(folder, kind, **settings):
    pytest.importorskip("sentence_transformers")
    import torch
    import transformers

    words = sorted({word for town in TOWNS for word in f"{town.title} {town.text}".lower().split()} | {".", ","})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *map(str, range(60))]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    transformers.BertTokenizerFast.from_pretrained(folder, model_max_length=64).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    fixed = {"vocab_size": len(vocabulary), "max_position_embeddings": 64, "initializer_range": 0.3, "num_labels": 1}
    config = transformers.BertConfig(**{**sizes, **fixed, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoded(cross_encoder) -> RerankRetriever:
    return make("rerank", TOWNS, retriever=BM25, model=cross_encoder, depth=20, device="cpu", batch_size=8)


@pytest.mark.slow
def test_a_cross_encoder_scores_title_and_text_as_the_model_itself_does(encoded, cross_encoder):
    import torch
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(cross_encoder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(cross_encoder)

    [hits] = encoded.search(["town 3"], 20)

    for hit in hits:
        pair = tokenizer("town 3", f"{hit.passage.title} {hit.passage.text}", return_tensors="pt")
        with torch.inference_mode():
            assert hit.score == pytest.approx(float(model(**pair).logits[0, 0]), abs=1e-4)
    assert len({round(hit.score, 3) for hit in hits}) > 10
    assert hits == sorted(hits, key=lambda hit: -hit.score)


@pytest.mark.slow
def test_a_cross_encoders_result_does_not_depend_on_the_batch_to_the_last_bit(encoded):
    queries = ["town 3", "river", "number 4 river town 2", "", "mile 7"] * 3
    assert isinstance(encoded, Retriever)
    check_retriever(encoded, queries)
    assert encoded.search(queries, 9) == [encoded.search([query], 9)[0] for query in queries]


@pytest.mark.slow
def test_copies_of_a_passage_keep_the_retrievers_order_wherever_they_fall_in_a_batch(cross_encoder):
    copies = [Passage(str(i), "Town 1", "On the river number 1, mile 1.") for i in range(0, 60, 2)]
    others = [Passage(str(i), "Town 1", f"{'mile ' * i} river.") for i in range(1, 40, 2)]
    first = ScriptedRetriever({}, default=[*copies, *others])
    retriever = RerankRetriever([], retriever=first, model=cross_encoder, device="cpu", batch_size=7)
    [hits] = retriever.search(["town 1"], 50)
    order = [hit.passage for hit in hits if hit.passage in copies]
    assert order == copies


@pytest.mark.slow
def test_threads_share_a_cross_encoder(encoded):
    queries = [f"town {i % 9} number {i % 5}" for i in range(24)]
    expected = [encoded.search([query], 5) for query in queries]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda query: encoded.search([query], 5), queries)) == expected


@pytest.mark.slow
def test_text_beyond_the_length_is_not_read(cross_encoder):
    long = [Passage(str(i), "Town 1", "river " * 30 + f"number {i} mile") for i in range(3)]
    cut, whole = (
        RerankRetriever(long, retriever=BM25, model=cross_encoder, device="cpu", max_length=length).search(["river"], 3)
        for length in (16, None)
    )
    assert cut[0][0].score - cut[0][-1].score <= 1e-5
    assert whole[0][0].score - whole[0][-1].score > 1e-3
    with pytest.raises(OptionError, match="max_length must be a whole number from 1 to the model's 64, got 65"):
        RerankRetriever(long, retriever=BM25, model=cross_encoder, device="cpu", max_length=65)


@pytest.mark.slow
def test_the_fingerprint_is_of_the_models_weights_wherever_they_are_stored(encoded, cross_encoder, tmp_path):
    import shutil

    copy = shutil.copytree(cross_encoder, tmp_path / "copy")
    options = {"retriever": BM25, "depth": 20, "device": "cpu"}
    assert RerankRetriever(TOWNS, model=copy, **options).fingerprint == encoded.fingerprint
    assert RerankRetriever(TOWNS, model=copy, max_length=16, **options).fingerprint != encoded.fingerprint
    other = save(tmp_path, "BertForSequenceClassification", num_hidden_layers=1)
    assert RerankRetriever(TOWNS, model=other, **options).fingerprint != encoded.fingerprint


@pytest.mark.slow
def test_a_model_without_a_trained_head_is_refused_and_so_is_one_with_several_outputs(tmp_path):
    for kind, labels, message in (
        ("BertModel", 1, "not a cross-encoder: it was saved as BertModel"),
        ("BertForSequenceClassification", 3, "has 3 outputs"),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        with pytest.raises(RetrievalError, match=message):
            RerankRetriever(TOWNS, retriever=BM25, model=save(folder, kind, num_labels=labels), device="cpu")


@pytest.mark.slow
def test_weights_other_than_safetensors_are_not_read(cross_encoder, tmp_path):
    import shutil

    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(cross_encoder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RetrievalError, match=r"cannot be loaded: .*safetensors"):
        RerankRetriever(TOWNS, retriever=BM25, model=folder, device="cpu")


@pytest.mark.slow
def test_a_model_that_cannot_be_downloaded_is_one_clear_error(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RetrievalError, match=r"'no/such-model' is not available"):
        RerankRetriever(TOWNS, retriever=BM25, model="no/such-model", device="cpu")
