from __future__ import annotations

import copy
import json
import pickle
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Passage
from raggym_env.errors import UnknownName
from raggym_env.retrieval.bm25 import analysis
from raggym_env.retrieval.bm25.analysis import ENGLISH_STOP_WORDS, NAME_MARK, Analyzer, fold

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
        ("Łódź", "lodz"),
        ("Brønnøysund", "BRONNOYSUND"),
        ("Đakovo", "dakovo"),
        ("Æthelstan Micropædia", "aethelstan micropaedia"),
        ("Œuvre", "oeuvre"),
        ("Kadıköy", "kadikoy"),
        ("Ħamrun", "hamrun"),
        ("Eiður Þórsson", "eidur thorsson"),
        ("GROẞE", "grosse"),
        ("Ŧŋĸ", "tnq"),
        ("Paraŀlel Paral·lel", "parallel parallel"),
        ("ſtars ﬁlm", "stars film"),
        ("Əliyev", "Aliyev"),
        ("Ɓaɗi", "badi"),
        ("Oʻahu ʿAlī", "oahu ali"),
        ("Ǿrsted ǣr", "orsted aer"),
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
    assert Analyzer()("") == Analyzer()(" ?! _ ") == []
    assert list(Analyzer().passages([Passage("1", "?", " ?! _ the ")], 1)) == [[]]


def test_a_batch_gives_what_single_calls_give():
    texts = ["Where was Beyoncé born?", "", "Ünïcödé", "films"]
    assert list(Analyzer().batch(texts)) == [Analyzer()(text) for text in texts]


@pytest.mark.parametrize(("weight", "terms"), [(0, ["city"]), (1, ["rome", "city"]), (2, ["rome", "rome", "city"])])
def test_a_title_counts_as_often_as_its_weight_says(weight, terms):
    assert list(Analyzer(stemmer="none").passages([Passage("1", "Rome", "a city")], weight)) == [terms]


LATIN = [chr(code) for code in range(0x80, 0x250) if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt")]


def test_nearly_all_latin_letters_have_an_ascii_spelling_in_both_cases():
    unspelled = [letter for letter in LATIN if not fold(letter).isascii()]
    # Letters of phonetic alphabets and of languages that no name in English text is written in.
    assert len(unspelled) < 40
    assert not set("".join(unspelled)) & set("ÆæØøÐðÞþßŁłĐđĦħıŒœŊŋŦŧĸŀĿſŉƒəƏɓƊɗƘƙƴƵƶȷǝ")
    for letter in LATIN:
        if letter.upper().lower() == letter:
            assert fold(letter.upper()).lower() == fold(letter).lower(), letter


@given(st.text(alphabet=st.one_of(st.sampled_from(LATIN), st.characters(max_codepoint=0x24F)), max_size=12))
def test_folding_is_the_same_for_every_unicode_form_and_twice_changes_nothing_more(text):
    assert fold(unicodedata.normalize("NFD", text)) == fold(text) == fold(fold(text))
    assert Analyzer()(fold(text)) == Analyzer()(text) or not fold(text).isascii()


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
def test_folding_leaves_ascii_as_it_is(text):
    assert fold(text) is text


STOPS = sorted(ENGLISH_STOP_WORDS)


@given(st.lists(st.sampled_from(STOPS), min_size=1, max_size=5), st.sampled_from([" ", "/", "&", " (", "-"]))
def test_a_query_of_stop_words_alone_keeps_them_as_terms_of_their_own_kind(words, between):
    [name] = Analyzer().passages([Passage("1", between.join(words).title(), "")], 1)
    assert Analyzer()(between.join(words)) == name == [f"{NAME_MARK}{word}" for word in words]
    assert not set(Analyzer()(" ".join([*words, "zebra"]))) & set(name)


def test_a_title_of_stop_words_alone_keeps_them_even_beside_a_parenthesis():
    titles = ["The The", "It (novel)", "It", "The Who", "A (band)", "(No Pussyfooting)", "?", "What If... (web series)"]
    terms = [Analyzer(stemmer="none").passages([Passage("1", title, "the band")], 1) for title in titles]
    assert [next(each) for each in terms] == [
        [" the", " the", "band"],
        ["novel", " it", "band"],
        [" it", "band"],
        ["who", "band"],
        ["band", " a", "band"],
        ["pussyfooting", "band"],
        ["band"],
        ["web", "series", " what", " if", "band"],
    ]


def test_without_stop_words_or_without_titles_there_are_no_names():
    assert PLAIN("The The") == ["the", "the"]
    assert list(PLAIN.passages([Passage("1", "The The", "x")], 1)) == [["the", "the", "x"]]
    assert list(Analyzer().passages([Passage("1", "The The", "x")], 0)) == [["x"]]


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
