"""Words of a text: tokens, terms (stems of content words), keys (normalized forms) and names."""

from __future__ import annotations

import re
import unicodedata
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
    "composed",
    "countries_in",
    "entities",
    "key",
    "longest_term",
    "names_in",
    "split_words",
    "stem",
    "terms",
    "whole_words",
    "words",
]

_WORD = r"[^\W_]+(?:['’][^\W_]+)*"
WORD = re.compile(_WORD)
_TOKEN = re.compile(f"({_WORD})")
# The same pattern for ASCII texts, which most are: it takes two thirds of the time.
_ASCII_TOKEN = re.compile("([0-9A-Za-z]+(?:'[0-9A-Za-z]+)*)")
# 1000 to 2099. The lookbehind checks the word boundary after two digits, so that `re` can search for a digit first.
YEAR = re.compile(r"(?:1\d|20)(?<=\b\d\d)\d\d\b(?![,.]\d)")

_STOP = """
a about after all also although am an and any are as at be because been before being between both but by can
could did do does during each for from had has have he her here hers him his how however i if in into is it its
itself many may me meanwhile more most much my name named no nor not of off on one only or other our out over own
same she should so some such than that the their them then there these they this those through to too under until
up was we were what when where which while who whom whose why will with would you your
"""
STOP = frozenset(_STOP.split())

# Lower-case words inside names: "Bank of America", "Vincent van Gogh", "Lord of the Rings".
_JOINERS = frozenset(
    ("of", "the", "de", "la", "le", "du", "da", "del", "der", "den", "di", "van", "von", "bin",
     "ibn", "al", "el", "y", "for")
)  # fmt: skip
_ABBREVIATED = frozenset(("Jr", "Sr", "St", "Dr", "Mr", "Mrs", "Ms", "Mt", "No", "vs"))
# Gaps allowed between two words of a name; a dot only after an initial or an abbreviation.
_GAPS, _DOTS = frozenset((" ", "-", "–", " & ", "/", "'", "  ")), frozenset((". ", "."))

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
MONTHS = {name: number for number, name in enumerate(_MONTHS, start=1)}

# Adjectives of nationality: they answer questions for a nationality or a country.
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
"""Demonym -> country, for the common ones."""
NATIONS = {**COUNTRIES, **{country: country for country in COUNTRIES.values()}, "U.S.": "United States"}
# Longest first, so that "Czech Republic" is matched as a whole and not as "Czech".
_NATION = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(NATIONS, key=len, reverse=True))) + r")(?!\w)")


def composed(text: str) -> str:
    """Return the text in Unicode NFC. Decomposed, an accent is no part of a word and would split it."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def whole_words(words: Iterable[str]) -> str:
    """Return a pattern that matches any of the words between word boundaries."""
    # The left boundary is tested after the word. A pattern that starts with letters is several times as fast, because
    # `re` scans the text for them before it tries to match.
    return "(?:" + "|".join(rf"{word}(?<=\b{word})" for word in words) + r")\b"


def split_words(text: str) -> list[str]:
    """Split a text into `[gap, word, gap, ..., word, gap]`; joined, the parts are the text again."""
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).split(text)


class Tokens:
    """The words of a text and their positions, from the parts that `split_words` returns."""

    __slots__ = ("_parts", "gaps", "starts", "words")

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts
        self.words = parts[1::2]
        self.gaps = parts[::2]
        """Text before each word, and after the last one."""
        self.starts = list(accumulate(map(len, parts)))[:-1:2]
        """Character offset of each word."""

    def text(self, first: int, end: int) -> str:
        """Return the text of the words `first` to `end - 1`, with the gaps between them."""
        return "".join(self._parts[2 * first + 1 : 2 * end])

    def key(self, first: int = 0, end: int | None = None) -> str:
        """Return the words `first` to `end - 1` (by default all) in lower case, with spaces between and at both ends.

        Unlike the function `key`, it keeps a final parenthesis.
        """
        return _normalized(self.words[first:end])

    def stems(self) -> list[str]:
        """Return the term of each word, "" for a stop word."""
        return [*map(_term, " ".join(self.words).lower().split())]

    def terms(self) -> dict[str, int]:
        """Return what the function `terms` returns, in half the time, as the text is split already."""
        # Last word first: of equal keys `dict` keeps the last value, here that of the first occurrence.
        starts = dict(zip(reversed(self.stems()), reversed(self.starts), strict=True))
        starts.pop("", None)
        return starts


def stem(word: str) -> str:
    """Return a word's first five letters in lower case, without a possessive 's; a number stays whole."""
    # Crude, but "directed" and "director" agree, and so do "America" and "American".
    return _prefix(word.lower().removesuffix("'s").removesuffix("’s"))


def _prefix(word: str) -> str:
    return word if word[:1].isdigit() else word[:5]


# Cached, as texts consist of the same words over and over.
@lru_cache(maxsize=65_536)
def _term(lower: str) -> str:
    """Return the stem of a lower-case word, "" for a stop word."""
    return "" if lower in STOP else stem(lower)


def longest_term(name: str) -> str:
    """Return the term of the longest word of a key, "" if that is a stop word."""
    word = max(name.split(), key=len, default="")
    return "" if word in STOP else _prefix(word)


def words(text: str) -> list[str]:
    """Return the words of a text as written, in order."""
    return WORD.findall(text)


def terms(text: str) -> dict[str, int]:
    """Return the stems of a text's content words, each with the offset of its first occurrence."""
    starts: dict[str, int] = {}
    for match in WORD.finditer(text):
        if term := _term(match[0].lower()):
            starts.setdefault(term, match.start())
    return starts


@lru_cache(maxsize=50_000)
def key(text: str) -> str:
    """Return a text's lower-case words between single spaces, without a final parenthesis ("Ed Wood (film)")."""
    bare = composed(text).rstrip()
    if bare.endswith(")"):
        bare = bare[: bare.rfind("(")].rstrip() or bare
    return _normalized(WORD.findall(bare))[1:-1]


def _normalized(words: list[str]) -> str:
    """Join words in lower case by single spaces, with one at each end, and drop each possessive s."""
    return f" {' '.join(words)} ".lower().replace("'s ", " ").replace("’s ", " ")


def entities(text: str) -> list[tuple[int, str]]:
    """Return the names in a text (people, places, works) with their character offsets, by capitalization alone."""
    tokens = Tokens(split_words(text))
    return [(tokens.starts[first], tokens.text(first, end)) for first, end in names_in(tokens)]


def names_in(tokens: Tokens) -> list[tuple[int, int]]:
    """Return the names in a text as ranges of words: index of the first, and index after the last."""
    ranges: list[tuple[int, int]] = []
    words, end = tokens.words, 0
    for at in [at for at, word in enumerate(words) if not word.islower()]:
        if at >= end and (words[at][0].isupper() or _is_leading_number(tokens, at)):
            first, end = at, _name_end(tokens, at)
            # A stop word starts no name if it is capitalized for another reason (first in the text) or is all there is.
            while (
                first < end
                and words[first].lower() in STOP
                and (first == 0 or end - first == 1 or words[first].islower())
            ):
                first += 1
            if first < end:
                ranges.append((first, end))
    return ranges


def _name_end(tokens: Tokens, at: int) -> int:
    """Return the index after the last word of the name that starts at word `at`."""
    words, end = tokens.words, at + 1
    while end < len(words):
        ahead = end
        # At most two joiners in a row: "Lord of the Rings".
        while ahead < len(words) and ahead - end < 2 and words[ahead] in _JOINERS and _is_joined(tokens, ahead):
            ahead += 1
        if ahead == len(words) or not (words[ahead][0].isupper() or (ahead == end and words[ahead].isdigit())):
            break
        if not _is_joined(tokens, ahead):
            break
        end = ahead + 1
    return end


def _is_leading_number(tokens: Tokens, at: int) -> bool:
    """True if the word is a number that starts a name: "12 Monkeys", but neither "1962 Chile" nor "3 May"."""
    words = tokens.words
    return (
        words[at].isdigit()
        and at + 1 < len(words)
        and words[at + 1][0].isupper()
        and words[at + 1] not in MONTHS
        and not YEAR.fullmatch(words[at])
        and _is_joined(tokens, at + 1)
    )


def _is_joined(tokens: Tokens, at: int) -> bool:
    """True if the gap before a word may stand inside a name: a space, a hyphen, the dot of an initial."""
    gap = tokens.gaps[at]
    if gap in _GAPS:
        return True
    return gap in _DOTS and (len(tokens.words[at - 1]) <= 2 or tokens.words[at - 1] in _ABBREVIATED)


def countries_in(text: str) -> set[str]:
    """Return the countries that a text names, directly or by a demonym."""
    return {NATIONS[match] for match in _NATION.findall(text)}
