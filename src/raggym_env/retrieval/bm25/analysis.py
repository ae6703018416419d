"""The analyzer: how passages and queries become terms, the same for `bm25` and `rank-bm25`.

A term is a word that is not a stop word, normalized by Unicode NFKC, case-folded, spelled without accents, stemmed.

- A word is a run of letters and digits of any script. One-character words count: "Malcolm X", "vitamin C".
  Scripts written without spaces are not segmented, and marks that no precomposed letter contains (the vowel signs
  of Indic scripts) split words. Passages and queries are split alike, so they still match.
- Accents are dropped, and letters that English does not have are spelled as English spells them: "Beyonce" finds
  "Beyoncé", "Lodz" finds "Łódź". See `fold`, which `lucene` uses as well.
- The stop words are Lucene's 33, the letters that an apostrophe leaves behind ("s", "t"), and the words questions
  are made of ("which", "whose", "did").
- A query of stop words alone ("The The") is compared with the titles that have no other words, either. Their words
  are terms of a kind of their own (`NAME_MARK`), so that the scores of all other queries are as without them.
"""

from __future__ import annotations

import functools
import itertools
import re
import threading
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import UnknownName

__all__ = ["ENGLISH_STOP_WORDS", "LUCENE_STOP_WORDS", "NAME_MARK", "Analyzer", "fold", "name_words"]

# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET. The others raise recall@5 by 0.6 points on both 2Wiki and HotpotQA,
# since a question is often the query. "Who" is not among them: it would gain 0.1 points and make "The Who" unfindable.
_LUCENE = """a an and are as at be but by for if in into is it no not of on or such that the their then there these
they this to was will with"""
LUCENE_STOP_WORDS = frozenset(_LUCENE.split())
_QUESTION = "s t what which where when how whose do does did has have had were from"
ENGLISH_STOP_WORDS = frozenset(f"{_LUCENE} {_QUESTION}".split())

STEMMERS = ("english", "none")
STOP_WORDS = {"english": ENGLISH_STOP_WORDS, "none": frozenset[str]()}

NAME_MARK = " "
"""The first character of the terms made of stop words. No other term begins with it."""

# Raised whenever the same text and options give other terms, so that stored indexes are not reused.
_RULES_VERSION = 2
_words = re.compile(r"[^\W_]+").findall
# A title's last parenthesis tells pages apart and is no part of the name: "This Is It (Michael Jackson song)".
_PARENTHESIS = re.compile(r"\s*\([^()]*\)\s*$")

# The combining diacritical marks, which are those of European scripts. Dropped because people and language models write
# "Beyonce" and "Gdansk" as often as the spelling of the page, and such a query would match nothing at all. On 2Wiki and
# HotpotQA it moves recall@5 by -0.05 and +0.12 points, so it costs nothing there. Beside them the apostrophes of
# romanized Hawaiian and Arabic ("Oʻahu"), which Unicode counts as letters.
_DROPPED = (*range(0x0300, 0x0370), *range(0x02B9, 0x02C0))
# Between two l of Catalan ("Paral·lel"), of which one may be written as one letter with it ("ŀ").
_MIDDLE_DOT = re.compile("(?<=[lL])·(?=[lL])")
# The spelling of letters whose Unicode names do not tell it, mostly as in Lucene's ASCIIFoldingFilter.
_SPELLED = {"ß": "ss", "þ": "th", **dict(zip("ðıȷĸŋəǝɛɔɖɵʉʒƿ", "dijqnaeeodouzw", strict=True))}
# "LATIN SMALL LETTER O WITH STROKE" is spelled "o", "LATIN SMALL LIGATURE OE" "oe".
_NAME = re.compile(r"LATIN SMALL (?:LETTER|LIGATURE) ([A-Z]{1,2})(?: WITH .*)?")


def _spelling(letter: str) -> str:
    """Return how English spells a letter that does not decompose into an ASCII letter and accents; "" if unknown."""
    small = letter.lower()
    # Ligatures ("ﬁ"), wide letters and "ŀ" decompose by compatibility only.
    spelling = "".join(filter(str.isascii, unicodedata.normalize("NFKD", small)))
    if not spelling.isalpha():
        match = _NAME.fullmatch(unicodedata.name(small, ""))
        spelling = _SPELLED.get(small) or (match[1].lower() if match else "")
    return spelling if letter == small else spelling.upper()


# Where Unicode has its Latin letters.
_LATIN = itertools.chain(range(0x80, 0x2B0), range(0x1D00, 0x1F00), range(0x2C60, 0x2C80), range(0xA720, 0xA800),
                         range(0xAB30, 0xAB70), range(0xFB00, 0xFB07), range(0xFF21, 0xFF5B))  # fmt: skip
_LETTERS = (chr(code) for code in _LATIN if unicodedata.category(chr(code)) in ("Ll", "Lu", "Lt"))
_FOLDED = str.maketrans({letter: spelling for letter in _LETTERS if (spelling := _spelling(letter))})
_FOLDED.update(dict.fromkeys(_DROPPED, ""))


def fold(text: str) -> str:
    """Return the text without accents and with the other Latin letters as English spells them.

    >>> fold("Łódź, Þórr, Søren Æsir, Straße, Hawaiʻi")
    'Lodz, THorr, Soren AEsir, Strasse, Hawaii'
    """
    if text.isascii():
        return text
    # Decomposed, an accent is a character of its own and can be dropped; NFC composes what is left.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", _MIDDLE_DOT.sub("", text)).translate(_FOLDED))


def name_words(title: str, stop_words: Container[str]) -> list[str]:
    """Return the folded words of a title of which all are stop words, its final parenthesis apart; else nothing.

    >>> name_words("The The", {"the"}), name_words("It (novel)", {"it"}), name_words("The Who", {"the"})
    (['the', 'the'], ['it'], [])
    """
    words = [fold(word.casefold()) for word in _words(_composed(_PARENTHESIS.sub("", title)))]
    return words if all(word in stop_words for word in words) else []


# Distinct words as written; a million of them take about 150 MB.
_MEMO_SIZE = 1_000_000


@dataclass(frozen=True)
class Analyzer:
    """Turns a text into its terms, in order and with repetitions. Thread-safe; equal analyzers share one memo.

    >>> Analyzer()("Where was Beyoncé's mother born?")
    ['beyonc', 'mother', 'born']

    Raises:
        UnknownName: There is no such stemmer or list of stop words.
    """

    stemmer: str = "english"
    """"english" (Snowball, by PyStemmer) or "none"."""
    stop_words: str = "english"
    """"english" or "none"."""

    def __post_init__(self) -> None:
        if self.stemmer not in STEMMERS:
            raise UnknownName("stemmer", str(self.stemmer), STEMMERS)
        if self.stop_words not in STOP_WORDS:
            raise UnknownName("list of stop words", str(self.stop_words), STOP_WORDS)

    def __call__(self, text: str) -> list[str]:
        """Return the terms of one query: those of its stop words, as in a title, if it has no other words."""
        return next(self.batch([text]))

    # Terms leave here as a stream, one text at a time. bm25s and rank-bm25 take lists of all terms of all passages; the
    # stream is a part of why the builder in `raggym_env.retrieval.bm25.index` needs a third of bm25s's memory.
    def batch(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the terms of each query, lazily."""
        memo = _memo(self.stemmer, self.stop_words)
        return (_terms(memo, text) or self._name_terms(text) for text in texts)

    def passages(self, passages: Iterable[Passage], title_weight: int) -> Iterator[list[str]]:
        """Yield the terms of each passage: those of its title `title_weight` times, then those of its text.

        About 30 thousand passages of 100 words a second.
        """
        memo = _memo(self.stemmer, self.stop_words)
        for _, title, text in passages:
            terms = _terms(memo, title)
            if title_weight and (not terms or title.endswith(")")):
                terms = terms + self._name_terms(title)
            yield terms * title_weight + _terms(memo, text)

    def _name_terms(self, title: str) -> list[str]:
        return [f"{NAME_MARK}{word}" for word in name_words(title, STOP_WORDS[self.stop_words])]

    @property
    def params(self) -> dict[str, Any]:
        """Everything the terms depend on: the options, the version of these rules, the release of the stemmer."""
        release = None
        if self.stemmer != "none":
            import Stemmer

            release = str(Stemmer.version())  # a new release of Snowball may stem a word in another way
        return {**asdict(self), "rules": _RULES_VERSION, "snowball": release}


class _Memo(dict[str, str]):
    """Maps a word as written to its term, or to "" for a stop word."""

    # A dictionary, since looking a word up again then runs no Python code; an LRU would run some for every word of
    # every passage.
    def __init__(self, stop_words: frozenset[str], stem: Callable[[str], str]) -> None:
        super().__init__()
        self._stop_words = stop_words
        self._stem = stem
        self._lock = threading.Lock()  # a PyStemmer object must not be used by two threads at once

    def __missing__(self, word: str) -> str:
        # Words are folded after the text is split, since folding may leave marks ("İ") that would split a word.
        folded = fold(word.casefold())
        with self._lock:
            # Stop words are compared before stemming, which is how they are listed ("does", "whose").
            term = "" if folded in self._stop_words else self._stem(folded)
            if len(self) >= _MEMO_SIZE:
                self.clear()
            self[word] = term
        return term


def _terms(memo: _Memo, text: str) -> list[str]:
    return [term for word in _words(_composed(text)) if (term := memo[word])]


def _composed(text: str) -> str:
    # NFKC leaves ASCII as it is. Whatever would split a word must go before the text is split.
    return text if text.isascii() else _MIDDLE_DOT.sub("", unicodedata.normalize("NFKC", text))


# One memo for each pair of options, shared by all analyzers: the analyzer itself stays small, frozen and picklable.
@functools.cache
def _memo(stemmer: str, stop_words: str) -> _Memo:
    if stemmer == "none":
        return _Memo(STOP_WORDS[stop_words], str)
    import Stemmer

    return _Memo(STOP_WORDS[stop_words], Stemmer.Stemmer(stemmer, 0).stemWord)  # 0: no second cache below the memo
