from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from raggym_env.core import Passage
from raggym_env.errors import UnknownName
from raggym_env.retrieval.bm25 import analysis
from raggym_env.retrieval.bm25.analysis import ENGLISH_STOP_WORDS, Analyzer

PLAIN = Analyzer(stemmer="none", stop_words="none")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Beyoncé", "beyonce"),
        ("Cafe\u0301", "CAFÉ"),
        ("ＦＵＬＬ width", "full WIDTH"),
        ("Straße", "STRASSE"),
        ("İstanbul", "istanbul"),
        ("films directed", "film directs"),
    ],
)
def test_spellings_of_one_word_give_the_same_terms(one, other):
    assert Analyzer()(one) == Analyzer()(other) != []


def test_letters_of_every_script_form_words():
    assert PLAIN("Москва 東京 Αθήνα ﷲ") == ["москва", "東京", "αθηνα", "الله"]


def test_punctuation_and_underscores_split_words_and_single_characters_are_terms():
    assert PLAIN("Malcolm X: foo_bar, AC/DC (1973)") == ["malcolm", "x", "foo", "bar", "ac", "dc", "1973"]


def test_terms_keep_order_and_repetitions():
    assert PLAIN("b a b") == ["b", "a", "b"]


def test_stop_words_are_matched_before_stemming_and_after_folding():
    assert Analyzer(stemmer="none")("WHICH was thé Who and the dog's bone?") == ["who", "dog", "bone"]
    assert Analyzer(stemmer="none", stop_words="none")("the dog") == ["the", "dog"]


def test_a_text_without_words_has_no_terms():
    assert Analyzer()("") == Analyzer()(" ?! _ the ") == []


def test_a_batch_gives_what_single_calls_give():
    texts = ["Where was Beyoncé born?", "", "Ünïcödé", "films"]
    assert list(Analyzer().batch(texts)) == [Analyzer()(text) for text in texts]


@pytest.mark.parametrize(("weight", "terms"), [(0, ["city"]), (1, ["rome", "city"]), (2, ["rome", "rome", "city"])])
def test_a_title_counts_as_often_as_its_weight_says(weight, terms):
    assert list(Analyzer(stemmer="none").passages([Passage("1", "Rome", "a city")], weight)) == [terms]


def test_params_change_with_the_options_only():
    analyzers = [Analyzer(), Analyzer(stemmer="none"), Analyzer(stop_words="none"), PLAIN]
    assert len({json.dumps(analyzer.params) for analyzer in analyzers}) == 4
    assert Analyzer().params == Analyzer("english", "english").params
    assert Analyzer().params["snowball"]
    assert PLAIN.params["snowball"] is None


def test_unknown_options_are_refused_with_a_suggestion():
    with pytest.raises(UnknownName, match="Did you mean 'english'"):
        Analyzer(stemmer="englsh")
    with pytest.raises(UnknownName, match="stop words"):
        Analyzer(stop_words="klingon")


def test_threads_sharing_the_stemmer_get_right_terms():
    words = [f"running{letter} {letter}jumping flies{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] * 20
    expected = [Analyzer()(word) for word in words]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(Analyzer(), words)) == expected


def test_an_analyzer_can_be_copied_and_sent_to_another_process():
    used = Analyzer()
    used("warm")
    assert copy.deepcopy(used) == pickle.loads(pickle.dumps(used)) == used  # noqa: S301


def test_the_memo_of_words_is_bounded(monkeypatch):
    monkeypatch.setattr(analysis, "_MEMO_SIZE", 10)
    analysis._memo.cache_clear()
    analyzer = Analyzer()
    for number in range(100):
        assert analyzer(f"word{number} films") == [f"word{number}", "film"]
    assert len(analysis._memo("english", "english")) <= 10


def test_stop_words_are_already_in_their_folded_form():
    assert all(word == word.casefold() and word.isascii() for word in ENGLISH_STOP_WORDS)
