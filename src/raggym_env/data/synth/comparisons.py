"""Comparisons of two entities, the words for relatives over two steps, and the wordings of both in questions."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALIKE", "FIRST", "KIN", "VIA", "Compare"]

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
class Compare:
    """A comparison of two entities: which has the first or largest value, or whether both have the same."""

    relation: str
    """Name of the relation whose values are compared."""
    asks: tuple[str, ...]
    """Questions about the two entities `{a}` and `{b}`."""
    criterion: str = ""
    """Clause that describes the winner and follows its noun: "the founder who was born first". Empty in `ALIKE`."""
    largest: bool = False
    """Whether the larger value wins, which for a date is the later."""


# Shared by the kinds whose entities are founded. "Younger" is for houses, which have no number to compare.
_OLDER = Compare(
    "founded", ("Which is older, {a} or {b}?", "Which was founded first, {a} or {b}?"), "that was founded first"
)
_YOUNGER = Compare(
    "founded", ("Which was founded later, {a} or {b}?", "Which is younger, {a} or {b}?"), "that was founded later", True
)

# By kind of entity. Relations whose values often tie, such as a person's occupation, are compared by `ALIKE` instead.
FIRST: dict[str, tuple[Compare, ...]] = {
    "person": (
        Compare("born", ("Who was born first, {a} or {b}?", "Who is older, {a} or {b}?"), "who was born first"),
        Compare("born", ("Who was born later, {a} or {b}?", "Who is younger, {a} or {b}?"), "who was born later", True),
        Compare("died", ("Who died first, {a} or {b}?", "Whose death came earlier, {a} or {b}?"), "who died first"),
        Compare("died", ("Who died later, {a} or {b}?",), "who died later", True),
    ),
    "work": (
        Compare(
            "published", ("Which came out first, {a} or {b}?", "Which is older, {a} or {b}?"), "that came out first"
        ),
        Compare("published", ("Which came out more recently, {a} or {b}?",), "that came out later", True),
    ),
    "place": (
        _OLDER,
        Compare(
            "population",
            ("Which has more inhabitants, {a} or {b}?", "Which has the larger population, {a} or {b}?"),
            "with the larger population",
            True,
        ),
        Compare("population", ("Which is home to fewer people, {a} or {b}?",), "with the smaller population"),
    ),
    "company": (_OLDER, Compare("staff", ("Which has more employees, {a} or {b}?",), "with more employees", True)),
    "house": (_OLDER, _YOUNGER),
    "school": (_OLDER, Compare("students", ("Which has more students, {a} or {b}?",), "with more students", True)),
    "event": (
        Compare(
            "date", ("Which happened first, {a} or {b}?", "Which took place earlier, {a} or {b}?"), "that began first"
        ),
        Compare("participants", ("Which had more participants, {a} or {b}?",), "with more participants", True),
    ),
    "nature": (
        Compare("elevation", ("Which lies higher above the sea, {a} or {b}?",), "that lies higher above the sea", True),
    ),
    "region": (Compare("area", ("Which is larger, {a} or {b}?",), "with the larger area", True),),
}

# Only relations whose values many entities share: with others, hardly any pair would have the answer "yes".
_SAME_SEAT = (
    Compare("seat", ("Are {a} and {b} located in the same place?", "Do {a} and {b} have the same home town?")),
)
_SAME_REGION = (Compare("region", ("Do {a} and {b} belong to the same territory?",)),)

ALIKE: dict[str, tuple[Compare, ...]] = {
    "person": (
        Compare("birthplace", ("Were {a} and {b} born in the same place?", "Do {a} and {b} share a birthplace?")),
        Compare(
            "occupation", ("Did {a} and {b} have the same profession?", "Were {a} and {b} in the same line of work?")
        ),
    ),
    "work": (Compare("setting", ("Are {a} and {b} set in the same place?",)),),
    "place": _SAME_REGION,
    "nature": _SAME_REGION,
    "company": _SAME_SEAT,
    "house": _SAME_SEAT,
    "school": _SAME_SEAT,
    "event": (Compare("venue", ("Were {a} and {b} held in the same place?",)),),
}

# Most values are called by the name of their relation.
_SAME_WORD = ("founder", "birthplace", "setting", "seat", "publisher", "employer", "father", "mother")
VIA = {
    **{name: name for name in _SAME_WORD},
    **{"creator": "{role}", "organiser": "leader", "statue": "statue of the person", "venue": "location"},
    **{"surveyor": "first surveyor", "governor": "first governor"},
}
"""Relations through which two entities can be compared, and the word for the value in between: in "Which has the
founder who was born first, {a} or {b}?" it is the founder."""
