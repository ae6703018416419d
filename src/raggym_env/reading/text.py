"""Text as the classical policies see it: terms, sentences, and the spans that can be an answer or a next query."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from raggym_env.core import Passage

__all__ = [
    "COUNTRIES",
    "MONTHS",
    "STOP",
    "Sentence",
    "Span",
    "countries_in",
    "entities",
    "key",
    "read",
    "terms",
    "words",
]

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

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

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
MONTHS = {name: number for number, name in enumerate(_MONTHS, start=1)}
_MONTH = "(?:" + "|".join(MONTHS) + ")"
_DATE = re.compile(rf"(?:\d{{1,2}} {_MONTH},? \d{{3,4}}|{_MONTH} \d{{1,2}}, ?\d{{3,4}}|{_MONTH} \d{{4}})")
_YEAR = re.compile(r"\b(?:1\d{3}|20\d{2})\b(?![,.]\d)")
_NUMBER = re.compile(
    r"\$?\b\d[\d,]*(?:\.\d+)?(?: (?:million|billion|thousand|percent))?%?|"
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred)\b"
)
_DEFINITION = re.compile(
    r"\b(?:is|was|are|were) (?:an?|the) ([^,.;()]{3,60}?)"
    r"(?= (?:of|in|from|by|for|at|on|that|who|which|and|based|known|located|released|published)\b|[,.;(]|$)"
)
_QUOTED = re.compile(r"[\"“]([^\"”]{2,60})[\"”]")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”)]*\s+(?=[A-Z\"“(0-9])")
_UNFINISHED = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|No|Mt|Inc|Ltd|Co|c|ca|b|d))\.$")
_CUE = re.compile(r"\b(born|birth|died|death|dies|killed|assassinated)\b|(?<=\()(b|d)\.", re.IGNORECASE)

# What is read of a passage, and where a text without sentences is cut, in characters: work stays linear in both.
_LONGEST_PASSAGE, _LONGEST_SENTENCE = 20_000, 1_000

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
_NATIONS = {**COUNTRIES, **{country: country for country in COUNTRIES.values()}, "U.S.": "United States"}
_NATION = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(_NATIONS, key=len, reverse=True))) + r")(?!\w)")


class Span(NamedTuple):
    """A piece of a sentence that could be an answer or a query."""

    text: str
    kind: str
    """"date", "year", "number", "entity", "nation" or "definition"."""
    start: int
    """Character offset in the sentence."""
    role: str
    """"birth" or "death" if the sentence says it is when or where somebody was born or died, else ""."""
    before: str
    """The lower-case word before it: "in", "by"; "" at the start of the sentence."""
    key: str


class Sentence:
    """One sentence of a passage, with what can be found in it."""

    __slots__ = ("_spans", "key", "number", "terms", "text", "title")

    def __init__(self, title: str, text: str, number: int) -> None:
        self.title = title
        self.text = text
        self.number = number
        """Position in the passage: 0 is the first."""
        self.terms = terms(text)
        """Term -> character offset of its first occurrence in the sentence."""
        self.key = f" {key(text + ' .')} "
        """The sentence as `key` gives it, between spaces: a title is mentioned if its own key, so padded, is in it."""
        self._spans: tuple[Span, ...] | None = None

    @property
    def spans(self) -> tuple[Span, ...]:
        """Its spans; found when first asked for, as most sentences are never asked."""
        if self._spans is None:
            self._spans = tuple(_spans(self.text))
        return self._spans


class Page(NamedTuple):
    """A passage, read."""

    title: str
    """As written."""
    name: str
    """The title's key between spaces."""
    title_terms: frozenset[str]
    sentences: tuple[Sentence, ...]
    key: str
    """The keys of all sentences: what no part of it contains, no sentence contains."""
    terms: frozenset[str]
    """Of the title and all sentences."""


def stem(word: str) -> str:
    """A word's first five letters. Crude, but directed and director agree, and so do America and American."""
    word = word.lower().removesuffix("'s").removesuffix("’s")
    return word if word[0].isdigit() else word[:5]


def words(text: str) -> list[str]:
    """The words of a text as written, in order."""
    return WORD.findall(text)


def terms(text: str) -> dict[str, int]:
    """Stemmed content words of a text, each with the offset of its first occurrence."""
    found: dict[str, int] = {}
    for match in WORD.finditer(text):
        if match[0].lower() not in STOP:
            found.setdefault(stem(match[0]), match.start())
    return found


@lru_cache(maxsize=50_000)
def key(text: str) -> str:
    """A text as lower-case words between single spaces, without a trailing parenthesis ("Ed Wood (film)")."""
    bare = text.rstrip()
    if bare.endswith(")"):
        bare = bare[: bare.rfind("(")].rstrip() or bare
    return " ".join(match.lower().removesuffix("'s").removesuffix("’s") for match in WORD.findall(bare))


def countries_in(text: str) -> set[str]:
    """Countries that a text names, directly or by their demonym."""
    return {_NATIONS[match] for match in _NATION.findall(text)}


@lru_cache(maxsize=20_000)
def page_of(passage: Passage) -> Page:
    """A passage, read. Cached: a passage is read at every turn of the episode that found it."""
    sentences = tuple(Sentence(passage.title, text, index) for index, text in enumerate(_split(passage.text)))
    title_terms = frozenset(terms(passage.title))
    held = title_terms.union(*(sentence.terms for sentence in sentences))
    whole = "|".join(sentence.key for sentence in sentences)
    return Page(passage.title, f" {key(passage.title)} ", title_terms, sentences, whole, held)


def read(passage: Passage) -> tuple[Sentence, ...]:
    """The sentences of a passage."""
    return page_of(passage).sentences


def _split(text: str) -> list[str]:
    parts: list[str] = []
    for part in _SENTENCE_END.split(text[:_LONGEST_PASSAGE].strip()):
        if parts and len(parts[-1]) < _LONGEST_SENTENCE and _UNFINISHED.search(parts[-1][-8:]):
            parts[-1] = f"{parts[-1]} {part}"
        elif part:
            parts.append(part)
    return [piece for part in parts for piece in _pieces(part)]


def _pieces(text: str) -> list[str]:
    return [text[at : at + _LONGEST_SENTENCE] for at in range(0, len(text), _LONGEST_SENTENCE)]


def _spans(text: str) -> list[Span]:
    taken: list[tuple[int, int]] = []
    spans: list[Span] = []
    cues = _cues(text)

    def add(found: str, kind: str, start: int) -> None:
        if found and not any(a < start + len(found) and start < b for a, b in taken):
            taken.append((start, start + len(found)))
            spans.append(Span(found, kind, start, _role(text, start, kind, cues), _before(text, start), key(found)))

    for kind, pattern in (("date", _DATE), ("year", _YEAR)):
        for match in pattern.finditer(text):
            add(match[0], kind, match.start())
    for match in _QUOTED.finditer(text):
        add(match[1].strip(" ,."), "entity", match.start(1))
    for start, entity in entities(text):
        add(entity, "nation" if entity in _NATIONS else "entity", start)
    for match in _NUMBER.finditer(text):
        add(match[0], "number", match.start())
    spans += [Span(m[1], "definition", m.start(1), "", "", key(m[1])) for m in _DEFINITION.finditer(text)]
    return spans


def _before(text: str, start: int) -> str:
    match = re.search(r"([^\W_]+)[\s\"“(]*$", text[max(0, start - 20) : start])
    return match[1].lower() if match else ""


def _cues(text: str) -> list[tuple[int, str]]:
    return [(match.start(), "birth" if match[0].lower().startswith("b") else "death") for match in _CUE.finditer(text)]


_LIFE = re.compile(r"\(([^()]*?\d{3,4}[^()]*?)\s*[–—-]+\s*([^()]*?\d{3,4}[^()]*?)\)")


def _role(text: str, start: int, kind: str, cues: list[tuple[int, str]]) -> str:
    if kind in ("date", "year") and (life := _LIFE.search(text)):
        if life.start(1) <= start < life.end(1):
            return "birth"
        if life.start(2) <= start < life.end(2):
            return "death"
    before = [role for at, role in cues if 0 < start - at <= 60]
    return before[-1] if before and kind in ("date", "year", "entity") else ""


def entities(text: str) -> list[tuple[int, str]]:
    """Capitalised spans with their offsets: names of people, places, works. Common first words are cut."""
    found: list[tuple[int, str]] = []
    tokens = list(WORD.finditer(text))
    at = 0
    while at < len(tokens):
        end = _name_end(text, tokens, at)
        if any(_capital(token[0]) for token in tokens[at:end]):
            first = at
            while first < end and _droppable(tokens, first, end):
                first += 1
            if first < end:
                found.append((tokens[first].start(), text[tokens[first].start() : tokens[end - 1].end()]))
        at = max(end, at + 1)
    return found


def _droppable(tokens: list[re.Match[str]], first: int, end: int) -> bool:
    word = tokens[first][0]
    return word.lower() in STOP and (first == 0 or end - first == 1 or word.islower())


def _name_end(text: str, tokens: list[re.Match[str]], at: int) -> int:
    """Index after the last token of the name that starts at a token; the same index if none does."""
    end = at
    if not _capital(tokens[at][0]) and not (_digits(tokens[at][0]) and _next_is_capital(text, tokens, at)):
        return at
    end = at + 1
    while end < len(tokens):
        ahead = end
        while ahead < len(tokens) and ahead - end < 2 and tokens[ahead][0] in _JOINERS and _joined(text, tokens, ahead):
            ahead += 1
        if ahead >= len(tokens) or not _joined(text, tokens, ahead):
            break
        if not (_capital(tokens[ahead][0]) or (ahead == end and tokens[ahead][0].isdigit())):
            break
        end = ahead + 1
    return end


def _capital(word: str) -> bool:
    return word[0].isupper()


def _digits(word: str) -> bool:
    return word.isdigit() and not _YEAR.fullmatch(word)


def _next_is_capital(text: str, tokens: list[re.Match[str]], at: int) -> bool:
    return (
        at + 1 < len(tokens)
        and _capital(tokens[at + 1][0])
        and tokens[at + 1][0] not in MONTHS
        and _joined(text, tokens, at + 1)
    )


def _joined(text: str, tokens: list[re.Match[str]], at: int) -> bool:
    """Whether nothing but a space, a hyphen or the dot of an initial stands before a token."""
    previous = tokens[at - 1]
    gap = text[previous.end() : tokens[at].start()]
    if gap in (" ", "-", "–", " & ", "/", "'", "  "):
        return True
    return gap in (". ", ".") and (len(previous[0]) <= 2 or previous[0] in _ABBREVIATED)
