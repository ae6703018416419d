"""The words of a text: as terms, as a key, and the names among them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate

__all__ = [
    "COUNTRIES",
    "MONTHS",
    "NATIONS",
    "STOP",
    "WORD",
    "YEAR",
    "Tokens",
    "countries_in",
    "cut",
    "entities",
    "key",
    "longest_term",
    "names_in",
    "stem",
    "terms",
    "whole_words",
    "words",
]

_WORD = r"[^\W_]+(?:['’][^\W_]+)*"
WORD = re.compile(_WORD)
_TOKEN = re.compile(f"({_WORD})")
# The same where all is ASCII, as most is, in two thirds of the time.
_ASCII_TOKEN = re.compile("([0-9A-Za-z]+(?:'[0-9A-Za-z]+)*)")
YEAR = re.compile(r"(?:1\d|20)(?<=\b\d\d)\d\d\b(?![,.]\d)")

_STOP = """
a about after all also although am an and any are as at be because been before being between both but by can
could did do does during each for from had has have he her here hers him his how however i if in into is it its
itself many may me meanwhile more most much my name named no nor not of off on one only or other our out over own
same she should so some such than that the their them then there these they this those through to too under until
up was we were what when where which while who whom whose why will with would you your
"""
STOP = frozenset(_STOP.split())


# Words inside names: "Bank of America", "Vincent van Gogh", "Lord of the Rings".
_JOINERS = frozenset(
    ("of", "the", "de", "la", "le", "du", "da", "del", "der", "den", "di", "van", "von", "bin",
     "ibn", "al", "el", "y", "for")
)  # fmt: skip
_ABBREVIATED = frozenset(("Jr", "Sr", "St", "Dr", "Mr", "Mrs", "Ms", "Mt", "No", "vs"))
# What may stand between the words of a name; a dot only behind an initial or an abbreviation.
_GAPS, _DOTS = frozenset((" ", "-", "–", " & ", "/", "'", "  ")), frozenset((". ", "."))

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
MONTHS = {name: number for number, name in enumerate(_MONTHS, start=1)}

# Adjectives of nationality, for telling what "nationality" and "country" ask for.
_DEMONYMS = """American:United States|British:United Kingdom|English:England|Scottish:Scotland|Welsh:Wales|
Irish:Ireland|French:France|German:Germany|Italian:Italy|Spanish:Spain|Portuguese:Portugal|Dutch:Netherlands|
Belgian:Belgium|Swiss:Switzerland|Austrian:Austria|Danish:Denmark|Swedish:Sweden|Norwegian:Norway|Finnish:Finland|
Icelandic:Iceland|Polish:Poland|Czech:Czech Republic|Slovak:Slovakia|Hungarian:Hungary|Romanian:Romania|
Bulgarian:Bulgaria|Greek:Greece|Turkish:Turkey|Russian:Russia|Soviet:Soviet Union|Ukrainian:Ukraine|Serbian:Serbia|
Croatian:Croatia|Slovenian:Slovenia|Bosnian:Bosnia|Albanian:Albania|Estonian:Estonia|Latvian:Latvia|
Lithuanian:Lithuania|Georgian:Georgia|Armenian:Armenia|Iranian:Iran|Persian:Persia|Iraqi:Iraq|Israeli:Israel|
Lebanese:Lebanon|Syrian:Syria|Egyptian:Egypt|Moroccan:Morocco|Tunisian:Tunisia|Algerian:Algeria|Nigerian:Nigeria|
Ghanaian:Ghana|Kenyan:Kenya|Ethiopian:Ethiopia|South African:South Africa|Indian:India|Pakistani:Pakistan|
Bangladeshi:Bangladesh|Sri Lankan:Sri Lanka|Nepalese:Nepal|Chinese:China|Taiwanese:Taiwan|Japanese:Japan|
Korean:Korea|Thai:Thailand|Vietnamese:Vietnam|Filipino:Philippines|Indonesian:Indonesia|Malaysian:Malaysia|
Singaporean:Singapore|Australian:Australia|Canadian:Canada|Mexican:Mexico|Brazilian:Brazil|Argentine:Argentina|
Chilean:Chile|Peruvian:Peru|Colombian:Colombia|Venezuelan:Venezuela|Cuban:Cuba|Jamaican:Jamaica|
Hong Kong:Hong Kong"""
COUNTRIES = dict(pair.strip().split(":") for pair in _DEMONYMS.replace("\n", "").split("|"))
"""Demonym -> country, for the commoner ones."""
NATIONS = {**COUNTRIES, **{country: country for country in COUNTRIES.values()}, "U.S.": "United States"}
_NATION = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(NATIONS, key=len, reverse=True))) + r")(?!\w)")


def whole_words(words: Iterable[str]) -> str:
    """A pattern for any of some words, which begins with their first letters and not with a boundary.

    Letters are what `re` looks for before it tries to match, so such a pattern is found several times faster.
    """
    return "(?:" + "|".join(rf"{word}(?<=\b{word})" for word in words) + r")\b"


def cut(text: str) -> list[str]:
    """A text as what stands before its first word, the word, what stands before the second, and so on to its end."""
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).split(text)


class Tokens:
    """The words of a text, given as `cut` gives it."""

    __slots__ = ("_parts", "gaps", "starts", "words")

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self.words = parts[1::2]
        self.gaps = parts[::2]
        """What stands before each word, and after the last."""
        self.starts = list(accumulate(map(len, parts)))[:-1:2]
        """Offset of each word."""

    def text(self, first: int, end: int) -> str:
        """The text from a word to the one before another."""
        return "".join(self._parts[2 * first + 1 : 2 * end])

    def key(self, first: int = 0, end: int | None = None) -> str:
        """The `key` of a text that ends with a word, between spaces: of the whole, or from a word to before another."""
        return _plain(self.words[first:end])

    def stems(self) -> list[str]:
        """Of each word its term; "" of a stop word."""
        return [*map(_term, " ".join(self.words).lower().split())]

    def terms(self) -> dict[str, int]:
        """As the function of that name, for half the work where a text is cut anyway."""
        # Backwards, as of equal keys the last one stays.
        found = dict(zip(reversed(self.stems()), reversed(self.starts), strict=True))
        found.pop("", None)
        return found


def stem(word: str) -> str:
    """A word's first five letters. Crude, but directed and director agree, and so do America and American."""
    return _start(word.lower().removesuffix("'s").removesuffix("’s"))


def _start(word: str) -> str:
    return word if word[:1].isdigit() else word[:5]


@lru_cache(maxsize=65_536)
def _term(lower: str) -> str:
    """The stem of a word in lower case; of a stop word "". Cached, as texts are made of the same words."""
    return "" if lower in STOP else stem(lower)


def longest_term(name: str) -> str:
    """The term of the longest word of a key; "" of a stop word."""
    word = max(name.split(), key=len, default="")
    return "" if word in STOP else _start(word)


def words(text: str) -> list[str]:
    """The words of a text as written, in order."""
    return WORD.findall(text)


def terms(text: str) -> dict[str, int]:
    """Stemmed content words of a text, each with the offset of its first occurrence."""
    found: dict[str, int] = {}
    for match in WORD.finditer(text):
        if term := _term(match[0].lower()):
            found.setdefault(term, match.start())
    return found


@lru_cache(maxsize=50_000)
def key(text: str) -> str:
    """A text as lower-case words between single spaces, without a trailing parenthesis ("Ed Wood (film)")."""
    bare = text.rstrip()
    if bare.endswith(")"):
        bare = bare[: bare.rfind("(")].rstrip() or bare
    return _plain(WORD.findall(bare))[1:-1]


def _plain(words: list[str]) -> str:
    """Words in lower case between single spaces, one at each end, without a possessive s."""
    return f" {' '.join(words)} ".lower().replace("'s ", " ").replace("’s ", " ")


def entities(text: str) -> list[tuple[int, str]]:
    """Capitalised spans with their offsets: names of people, places, works. Common first words are cut."""
    tokens = Tokens(cut(text))
    return [(tokens.starts[first], tokens.text(first, end)) for first, end in names_in(tokens)]


def names_in(tokens: Tokens) -> list[tuple[int, int]]:
    """The same as indices of words: of the first, and after the last."""
    found: list[tuple[int, int]] = []
    end = 0
    for at in [at for at, word in enumerate(tokens.words) if not word.islower()]:
        if at >= end and (tokens.words[at][0].isupper() or _counts(tokens, at)):
            first, end = at, _name_end(tokens, at)
            while first < end and _droppable(tokens, first, end):
                first += 1
            if first < end:
                found.append((first, end))
    return found


def _droppable(tokens: Tokens, first: int, end: int) -> bool:
    word = tokens.words[first]
    return word.lower() in STOP and (first == 0 or end - first == 1 or word.islower())


def _name_end(tokens: Tokens, at: int) -> int:
    """Index after the last word of the name that starts at a word."""
    words, end = tokens.words, at + 1
    while end < len(words):
        ahead = end
        while ahead < len(words) and ahead - end < 2 and words[ahead] in _JOINERS and _joined(tokens, ahead):
            ahead += 1
        if ahead == len(words) or not (words[ahead][0].isupper() or (ahead == end and words[ahead].isdigit())):
            break
        if not _joined(tokens, ahead):
            break
        end = ahead + 1
    return end


def _counts(tokens: Tokens, at: int) -> bool:
    """Whether a word is a number that begins a name: "12 Monkeys", but neither "1962 Chile" nor "3 May"."""
    words = tokens.words
    return (
        words[at].isdigit()
        and at + 1 < len(words)
        and words[at + 1][0].isupper()
        and words[at + 1] not in MONTHS
        and not YEAR.fullmatch(words[at])
        and _joined(tokens, at + 1)
    )


def _joined(tokens: Tokens, at: int) -> bool:
    """Whether nothing but a space, a hyphen or the dot of an initial stands before a word."""
    gap = tokens.gaps[at]
    if gap in _GAPS:
        return True
    return gap in _DOTS and (len(tokens.words[at - 1]) <= 2 or tokens.words[at - 1] in _ABBREVIATED)


def countries_in(text: str) -> set[str]:
    """Countries that a text names, directly or by their demonym."""
    return {NATIONS[match] for match in _NATION.findall(text)}
