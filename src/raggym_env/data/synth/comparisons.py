"""Comparisons of two entities, the words for relatives over two steps, and the wordings of both in questions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALIKE", "FIRST", "KIN", "VIA", "Alike", "First"]

KIN = {
    ("father", "father"): "paternal grandfather",
    ("father", "mother"): "paternal grandmother",
    ("mother", "father"): "maternal grandfather",
    ("mother", "mother"): "maternal grandmother",
    ("spouse", "father"): "father-in-law",
    ("spouse", "mother"): "mother-in-law",
}
"""The word for the relative that two relations lead to. An inference question uses it and names neither step."""


@dataclass(frozen=True)
class First:
    """A comparison by a date or a number, which one of the two entities wins."""

    relation: str
    """Name of the relation whose values are compared."""
    asks: tuple[str, ...]
    """Questions about the two entities `{a}` and `{b}`."""
    criterion: str
    """Clause that describes the winner and follows its noun: "the founder who was born first"."""
    largest: bool = False
    """Whether the larger value wins, which for a date is the later."""


@dataclass(frozen=True)
class Alike:
    """A yes-or-no question: whether two entities have the same value."""

    relation: str
    """Name of the relation whose values are compared."""
    asks: tuple[str, ...]
    """Questions about the two entities `{a}` and `{b}`."""


# Shared by the kinds whose entities are founded. "Younger" is for houses, which have no number to compare.
_OLDER = First(
    "founded", ("Which is older, {a} or {b}?", "Which was founded first, {a} or {b}?"), "that was founded first"
)
_YOUNGER = First(
    "founded", ("Which was founded later, {a} or {b}?", "Which is younger, {a} or {b}?"), "that was founded later", True
)

# By kind of entity. Relations whose values often tie, such as a person's occupation, are compared by `ALIKE` instead.
FIRST: dict[str, tuple[First, ...]] = {
    "person": (
        First("born", ("Who was born first, {a} or {b}?", "Who is older, {a} or {b}?"), "who was born first"),
        First("born", ("Who was born later, {a} or {b}?", "Who is younger, {a} or {b}?"), "who was born later", True),
        First("died", ("Who died first, {a} or {b}?", "Whose death came earlier, {a} or {b}?"), "who died first"),
        First("died", ("Who died later, {a} or {b}?",), "who died later", True),
    ),
    "work": (
        First("published", ("Which came out first, {a} or {b}?", "Which is older, {a} or {b}?"), "that came out first"),
        First("published", ("Which came out more recently, {a} or {b}?",), "that came out later", True),
    ),
    "place": (
        _OLDER,
        First(
            "population",
            ("Which has more inhabitants, {a} or {b}?", "Which has the larger population, {a} or {b}?"),
            "with the larger population",
            True,
        ),
        First("population", ("Which is home to fewer people, {a} or {b}?",), "with the smaller population"),
    ),
    "company": (_OLDER, First("staff", ("Which has more employees, {a} or {b}?",), "with more employees", True)),
    "house": (_OLDER, _YOUNGER),
    "school": (_OLDER, First("students", ("Which has more students, {a} or {b}?",), "with more students", True)),
    "event": (
        First(
            "date", ("Which happened first, {a} or {b}?", "Which took place earlier, {a} or {b}?"), "that began first"
        ),
        First("participants", ("Which had more participants, {a} or {b}?",), "with more participants", True),
    ),
    "nature": (
        First("elevation", ("Which lies higher above the sea, {a} or {b}?",), "that lies higher above the sea", True),
    ),
    "region": (First("area", ("Which is larger, {a} or {b}?",), "with the larger area", True),),
}

# Only relations whose values many entities share: with others, hardly any pair would have the answer "yes".
_SAME_SEAT = (Alike("seat", ("Are {a} and {b} located in the same place?", "Do {a} and {b} have the same home town?")),)
_SAME_REGION = (Alike("region", ("Do {a} and {b} belong to the same territory?",)),)

ALIKE: dict[str, tuple[Alike, ...]] = {
    "person": (
        Alike("birthplace", ("Were {a} and {b} born in the same place?", "Do {a} and {b} share a birthplace?")),
        Alike(
            "occupation", ("Did {a} and {b} have the same profession?", "Were {a} and {b} in the same line of work?")
        ),
    ),
    "work": (Alike("setting", ("Are {a} and {b} set in the same place?",)),),
    "place": _SAME_REGION,
    "nature": _SAME_REGION,
    "company": _SAME_SEAT,
    "house": _SAME_SEAT,
    "school": _SAME_SEAT,
    "event": (Alike("venue", ("Were {a} and {b} held in the same place?",)),),
}

VIA = {
    "creator": "{role}",
    "founder": "founder",
    "organiser": "leader",
    "surveyor": "first surveyor",
    "governor": "first governor",
    "statue": "statue of the person",
    "birthplace": "birthplace",
    "setting": "setting",
    "venue": "location",
    "seat": "seat",
    "publisher": "publisher",
    "employer": "employer",
    "father": "father",
    "mother": "mother",
}
"""Relations through which two entities can be compared, and the word for the value in between: in "Which has the
founder who was born first, {a} or {b}?" it is the founder."""
