"""The analyzer: how passages and queries become terms, the same for `bm25` and `rank-bm25`.

A term is a word that is not a stop word, normalized by Unicode NFKC, case-folded, without accents, stemmed.

- A word is a run of letters and digits of any script. One-character words count: "Malcolm X", "vitamin C".
  Scripts written without spaces are not segmented, and marks that no precomposed letter contains (the vowel signs
  of Indic scripts) split words. Passages and queries are split alike, so they still match.
- Accents are dropped: "Beyonce" finds "Beyoncé".
- The stop words are Lucene's 33, the letters that an apostrophe leaves behind ("s", "t"), and the words questions
  are made of ("which", "whose", "did").
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import UnknownName

__all__ = ["ENGLISH_STOP_WORDS", "Analyzer"]

# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET. The others raise recall@5 by 0.6 points on both 2Wiki and HotpotQA,
# since a question is often the query. "Who" is not among them: it would gain 0.1 points and make "The Who" unfindable.
_LUCENE = """a an and are as at be but by for if in into is it no not of on or such that the their then there these
they this to was will with"""
_QUESTION = "s t what which where when how whose do does did has have had were from"
ENGLISH_STOP_WORDS = frozenset(f"{_LUCENE} {_QUESTION}".split())

STEMMERS = ("english", "none")
STOP_WORDS = {"english": ENGLISH_STOP_WORDS, "none": frozenset[str]()}

# Raised whenever the same text and options give other terms, so that stored indexes are not reused.
_RULES_VERSION = 1
_words = re.compile(r"[^\W_]+").findall
# The combining diacritical marks, which are those of European scripts. Dropped because people and language models write
# "Beyonce" and "Gdansk" as often as the spelling of the page, and such a query would match nothing at all. On 2Wiki and
# HotpotQA it moves recall@5 by -0.05 and +0.12 points, so it costs nothing there.
_ACCENTS = dict.fromkeys(range(0x0300, 0x0370))
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
        """Return the terms of one text."""
        return _terms(_memo(self.stemmer, self.stop_words), text)

    # Terms leave here as a stream, one text at a time. bm25s and rank-bm25 take lists of all terms of all passages; the
    # stream is a part of why the builder in `raggym_env.retrieval.bm25.index` needs a third of bm25s's memory.
    def batch(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the terms of each text, lazily: about 30 thousand passages of 100 words a second."""
        memo = _memo(self.stemmer, self.stop_words)
        return (_terms(memo, text) for text in texts)

    def passages(self, passages: Iterable[Passage], title_weight: int) -> Iterator[list[str]]:
        """Yield the terms of each passage: those of its title `title_weight` times, then those of its text."""
        memo = _memo(self.stemmer, self.stop_words)
        return (_terms(memo, title) * title_weight + _terms(memo, text) for _, title, text in passages)

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
        folded = word.casefold()
        if not folded.isascii():
            # Decomposed, an accent is a character of its own and can be dropped; NFKC composes what is left.
            bare = unicodedata.normalize("NFKD", folded).translate(_ACCENTS)
            folded = unicodedata.normalize("NFKC", bare)
        with self._lock:
            # Stop words are compared before stemming, which is how they are listed ("does", "whose").
            term = "" if folded in self._stop_words else self._stem(folded)
            if len(self) >= _MEMO_SIZE:
                self.clear()
            self[word] = term
        return term


def _terms(memo: _Memo, text: str) -> list[str]:
    if not text.isascii():  # NFKC leaves ASCII as it is
        text = unicodedata.normalize("NFKC", text)
    return [term for word in _words(text) if (term := memo[word])]


# One memo for each pair of options, shared by all analyzers: the analyzer itself stays small, frozen and picklable.
@functools.cache
def _memo(stemmer: str, stop_words: str) -> _Memo:
    if stemmer == "none":
        return _Memo(STOP_WORDS[stop_words], str)
    import Stemmer

    return _Memo(STOP_WORDS[stop_words], Stemmer.Stemmer(stemmer, 0).stemWord)  # 0: no second cache below the memo
