"""The one analyser: how passages and queries become terms, the same for every lexical back end.

A term is a word, normalised by Unicode NFKC, case-folded, without accents, that is not a stop word, stemmed.

- A word is a run of letters and digits of any script. One-character words count: "Malcolm X", "vitamin C".
  Scripts written without spaces are not segmented, and marks that no precomposed letter holds (the vowel signs of
  Indic scripts) part words; documents and queries part alike, so they still match.
- Accents are folded because people and language models write "Beyonce" and "Gdansk" as often as the spelling of
  the page. On 2Wiki and HotpotQA folding moves recall@5 by -0.05 and +0.12 points: it costs nothing there, and it
  is what makes such a query find anything at all.
- The stop words are Lucene's 33, what an apostrophe leaves behind ("s", "t"), and the words questions are made of
  ("which", "whose", "did"). The latter two kinds raise recall@5 by 0.6 points on both corpora, since a question is
  often searched for as it stands. "Who" is none: it would gain 0.1 points and make "The Who" unfindable.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from raggym_env.core import Passage
from raggym_env.errors import UnknownName

__all__ = ["ENGLISH_STOP_WORDS", "Analyzer"]

_LUCENE = """a an and are as at be but by for if in into is it no not of on or such that the their then there these
they this to was will with"""
_QUESTION = "s t what which where when how whose do does did has have had were from"
ENGLISH_STOP_WORDS = frozenset(f"{_LUCENE} {_QUESTION}".split())

STEMMERS = ("english", "none")
STOP_WORDS = {"english": ENGLISH_STOP_WORDS, "none": frozenset[str]()}

_words = re.compile(r"[^\W_]+").findall
_ACCENTS = dict.fromkeys(range(0x0300, 0x0370))  # combining diacritical marks: those of European scripts
_MEMO_SIZE = 1_000_000


@dataclass(frozen=True)
class Analyzer:
    """Turns a text into its terms, in order and with repetitions. Thread-safe; equal analysers share one memory.

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
        return _terms(_memo(self.stemmer, self.stop_words), text)

    def batch(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """The terms of each text, lazily. About 30 thousand passages of 100 words a second."""
        memo = _memo(self.stemmer, self.stop_words)
        return (_terms(memo, text) for text in texts)

    def passages(self, passages: Iterable[Passage], title_weight: int) -> Iterator[list[str]]:
        """The terms of each passage: those of its title `title_weight` times, then those of its text."""
        memo = _memo(self.stemmer, self.stop_words)
        return (_terms(memo, title) * title_weight + _terms(memo, text) for _, title, text in passages)

    @property
    def params(self) -> dict[str, Any]:
        """All that changes the terms: the options, the version of these rules, the release of the stemmer."""
        release = _snowball_release() if self.stemmer != "none" else None
        return {**asdict(self), "rules": 1, "snowball": release}

    @property
    def fingerprint(self) -> str:
        """Changes with everything that changes the terms, and with nothing else."""
        return hashlib.blake2b(json.dumps(self.params, sort_keys=True).encode(), digest_size=8).hexdigest()


class _Memo(dict[str, str]):
    """Word as written -> its term, or "" for a stop word. Looking a known word up runs no Python code."""

    def __init__(self, stop_words: frozenset[str], stem: Callable[[str], str]) -> None:
        super().__init__()
        self._stop_words = stop_words
        self._stem = stem
        self._lock = threading.Lock()  # a PyStemmer object must not be used by two threads at once

    def __missing__(self, word: str) -> str:
        folded = _fold(word)
        with self._lock:
            term = "" if folded in self._stop_words else self._stem(folded)
            if len(self) >= _MEMO_SIZE:
                self.clear()
            self[word] = term
        return term


def _terms(memo: _Memo, text: str) -> list[str]:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return [term for word in _words(text) if (term := memo[word])]


def _fold(word: str) -> str:
    """Case and accents away. By word, since case folding may leave marks ("İ") that would part a word in two."""
    folded = word.casefold()
    if folded.isascii():
        return folded
    bare = unicodedata.normalize("NFKD", folded).translate(_ACCENTS)
    return unicodedata.normalize("NFKC", bare)


@functools.cache
def _memo(stemmer: str, stop_words: str) -> _Memo:
    return _Memo(STOP_WORDS[stop_words], _stem(stemmer))


def _stem(stemmer: str) -> Callable[[str], str]:
    if stemmer == "none":
        return str
    import Stemmer

    stem: Callable[[str], str] = Stemmer.Stemmer(stemmer, 0).stemWord  # the memo is the cache
    return stem


def _snowball_release() -> str:
    import Stemmer

    return str(Stemmer.version())
