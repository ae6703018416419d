from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from raggym_env.core import Passage
from raggym_env.errors import OptionError, RetrievalError, UnknownName
from raggym_env.retrieval.dense.encoders import ENCODERS, Encoder, EncoderOptions
from tiny_encoders import on_the_hub, tiny_bert, tiny_sentence_transformer

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

pytestmark = pytest.mark.slow

CAT = Passage("1", "cat", "dog elk fox")
TEXTS = ["cat dog", "ant", "elk fox gnu hen ibis jay ant bee", "dog cat"]
PREFIXES = {
    "bge-base": ("Represent this sentence for searching relevant passages: ", ""),
    "e5-base": ("query: ", "passage: "),
    "contriever": ("", ""),
    "minilm": ("", ""),
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty, on a machine without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def encoder(model, **options) -> Encoder:
    return Encoder(EncoderOptions(**{"model": model, "device": "cpu", **options}))


def token_vectors(folder: Path, *texts: str, max_length: int = 128):
    """The last layer of a plain transformers model over one text or one pair: shape `(tokens, dimension)`."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt", truncation=True, max_length=max_length)
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0].numpy()


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("name", PREFIXES)
def test_a_row_of_the_table_determines_prefix_pooling_and_normalization(bert, name):
    spec = ENCODERS[name]
    query_prefix, passage_prefix = PREFIXES[name]
    pool = {"cls": lambda tokens: tokens[0], "mean": lambda tokens: tokens.mean(axis=0)}[spec.pooling]
    scale = unit if spec.normalize else np.asarray
    model = encoder(bert, like=name)

    expected = scale(pool(token_vectors(bert, f"{query_prefix}ant bee")))
    assert model.queries(["ant bee"])[0] == pytest.approx(expected, abs=1e-5)
    expected = scale(pool(token_vectors(bert, f"{passage_prefix}cat dog elk fox")))
    assert model.passages()([CAT])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "pooling", "normalize"),
    [
        ("bge-small", "cls", True),
        ("bge-base", "cls", True),
        ("bge-large", "cls", True),
        ("e5-base", "mean", True),
        ("e5-large", "mean", True),
        ("contriever", "mean", False),
        ("contriever-msmarco", "mean", False),
        ("medcpt", "cls", False),
        ("minilm", "mean", True),
    ],
)
def test_the_table_agrees_with_the_model_cards(name, pooling, normalize):
    assert (ENCODERS[name].pooling, ENCODERS[name].normalize) == (pooling, normalize)


def test_medcpt_has_an_encoder_for_queries_and_one_for_pairs_of_title_and_text(hub):
    query_folder = on_the_hub(hub, "ncbi/MedCPT-Query-Encoder", functools.partial(tiny_bert, seed=1))
    passage_folder = on_the_hub(hub, "ncbi/MedCPT-Article-Encoder", functools.partial(tiny_bert, seed=2))
    model = encoder("medcpt")

    assert model.queries(["ant bee"])[0] == pytest.approx(token_vectors(query_folder, "ant bee")[0], abs=1e-5)
    expected = token_vectors(passage_folder, "cat", "dog elk fox")[0]
    assert model.passages()([CAT])[0] == pytest.approx(expected, abs=1e-5)
    long = "ant " * 100
    assert model.queries([long])[0] == pytest.approx(token_vectors(query_folder, long, max_length=64)[0], abs=1e-5)


def test_the_table_also_applies_to_a_model_named_as_on_the_hub(hub):
    on_the_hub(hub, "intfloat/e5-base-v2", tiny_bert)
    by_name, by_hub_name = encoder("e5-base"), encoder("intfloat/e5-base-v2")
    assert by_name.query_key == by_hub_name.query_key
    assert by_name.query_key["prefix"] == "query: "


def test_a_sentence_transformers_folder_is_used_as_its_configuration_says(tmp_path):
    prompts = {"query": "query: ", "document": "passage: "}
    folder = tiny_sentence_transformer(tmp_path / "model", prompts=prompts)
    model = encoder(folder)

    assert model.queries(["ant bee"])[0] == pytest.approx(
        unit(token_vectors(folder, "query: ant bee").mean(axis=0)), abs=1e-5
    )
    expected = unit(token_vectors(folder, "passage: cat dog elk fox").mean(axis=0))
    assert model.passages()([CAT])[0] == pytest.approx(expected, abs=1e-5)


def test_a_model_that_compares_by_dot_product_is_not_normalized(tmp_path):
    model = encoder(tiny_sentence_transformer(tmp_path / "model", prompts={}, similarity="dot"))
    assert np.linalg.norm(model.queries(["ant"])[0]) > 1.5


def test_a_model_that_compares_by_distance_is_refused(tmp_path):
    folder = tiny_sentence_transformer(tmp_path / "model", prompts={}, similarity="euclidean")
    with pytest.raises(RetrievalError, match="euclidean"):
        encoder(folder)


def test_the_error_for_a_plain_folder_that_is_not_in_the_table_says_what_to_do(bert):
    with pytest.raises(RetrievalError, match=r"no modules\.json.*like=NAME"):
        encoder(bert)


def test_pickled_weights_are_refused(tmp_path, hub):
    pickled = functools.partial(tiny_bert, safetensors=False)
    with pytest.raises(RetrievalError, match="no safetensors weights"):
        encoder(pickled(tmp_path / "bert"), like="contriever")
    on_the_hub(hub, "facebook/contriever", pickled)
    with pytest.raises(RetrievalError, match="no safetensors weights"):
        encoder("contriever")


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tiny_sentence_transformer(tmp_path / "model", prompts={})
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "own.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Pooling: pass\n")

    with pytest.raises(RetrievalError, match="cannot be loaded"):
        encoder(folder)
    assert not (tmp_path / "ran").exists()


def test_a_query_is_encoded_the_same_in_any_batch(bert):
    model = encoder(bert, like="e5-base")
    alone = np.concatenate([model.queries([text]) for text in TEXTS])
    assert np.array_equal(model.queries(TEXTS), alone)
    assert np.array_equal(model.queries(TEXTS[::-1]), alone[::-1])


def test_the_batch_size_changes_nothing_but_the_last_bits(bert):
    passages = [Passage(str(number), "", text) for number, text in enumerate(TEXTS)]
    few, many = (encoder(bert, like="contriever", batch_size=size).passages()(passages) for size in (1, 64))
    assert few == pytest.approx(many, abs=1e-5)


def test_text_beyond_the_length_is_cut_off(bert):
    model = encoder(bert, like="minilm", max_length=8)
    [short, long] = model.queries(["ant bee cat dog elk fox", "ant bee cat dog elk fox gnu hen"])
    assert np.array_equal(short, long)


def test_max_length_cannot_exceed_the_models_limit(bert):
    long = "ant " * 500
    assert encoder(bert, like="minilm", max_length=100_000).queries([long]) == pytest.approx(
        encoder(bert, like="minilm").queries([long])
    )


def test_threads_encoding_at_once_get_right_vectors(bert):
    model = encoder(bert, like="e5-base")
    expected = [model.queries([text, "ant"]) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        for vectors, right in zip(
            pool.map(lambda text: model.queries([text, "ant"]), TEXTS * 5), expected * 5, strict=True
        ):
            assert np.array_equal(vectors, right)


def test_lone_surrogates_can_be_encoded(bert):
    assert np.isfinite(encoder(bert, like="e5-base").queries(["ant \ud800 bee"])).all()


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'minilm'"):
        encoder("minilmm")
    with pytest.raises(UnknownName, match="Did you mean 'medcpt'"):
        encoder("somewhere", like="medctp")


@pytest.mark.parametrize(
    "option", [{"max_length": 2}, {"max_length": "long"}, {"batch_size": 0}, {"device": "toaster"}]
)
def test_options_out_of_range_are_refused_by_name(bert, option):
    with pytest.raises(OptionError, match=next(iter(option))):
        encoder(bert, like="e5-base", **option)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(bert):
    with pytest.raises(OptionError, match="no GPU"):
        encoder(bert, like="e5-base", device="cuda")


def test_the_real_encoder_agrees_with_sentence_transformers(small_encoder):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(small_encoder), device="cpu")
    passage = Passage("1", "Rome", "Rome is the capital of Italy. " * 60)  # more than the 256 tokens that it reads

    model = encoder(small_encoder, like="minilm")

    queries = ["capital of Italy", "who was the first man on the moon?"]
    assert model.queries(queries) == pytest.approx(reference.encode(queries), abs=1e-5)
    assert model.passages()([passage])[0] == pytest.approx(reference.encode(f"Rome {passage.text}"), abs=1e-5)
