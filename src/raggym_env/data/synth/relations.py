"""The wordings of relations in questions: one row per relation, in words that passages mostly do not use.

Wordings that differ from those of the passages make a question test the search rather than the overlap of its words.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NOUNS", "RELATIONS", "Relation"]


NOUNS = {"company": "business", "house": "company", "nature": "landmark"}
"""The noun in questions for an entity that they do not name; for other kinds it is the kind itself. Passages say
"seaport", "bank" or "glacier", which are rare words in a small world: a question that contained one would find the
passage by that word alone."""


@dataclass(frozen=True)
class Relation:
    """The wordings of one relation.

    In a wording, `{x}` stands for the subject and `{t}` for the noun in `NOUNS` for the value; `{role}`, `{a_role}`,
    `{made}` and `{done}` are the words for the creation of a work. A wording that ends in "|year" asks for the year
    of a date.
    """

    label: str
    """Name of the relation in the gold evidence, as in Wikidata."""
    asks: tuple[str, ...]
    """Complete questions for the value."""
    nouns: tuple[str, ...] = ()
    """Short noun phrases for the value, in the style of 2WikiMultihopQA. Empty if the value is not an entity."""
    clauses: tuple[str, ...] = ()
    """Phrases for the value that contain a verb, in the style of HotpotQA, whose questions people wrote."""
    links: tuple[str, ...] = ()
    """Predicates that end in "who" or "that" and continue with something about the value."""
    ends: tuple[str, ...] = ()
    """Predicates that end a question by asking for the value."""


# A year is not an entity: a chain can end in it but not continue from it, so these rows have neither nouns nor links.
def _inception(label: str, verb: str) -> Relation:
    return Relation(
        label,
        (f"In which year was {{x}} {verb}?", f"When was {{x}} {verb}?"),
        ends=(f"was {verb} in which year", "dates back to which year"),
    )


# Shared by companies, houses and schools.
_ORGANISATION = {
    "founder": Relation(
        "founded by",
        ("Who founded {x}?", "Who was the founder of {x}?"),
        ("the founder of {x}",),
        ("the person who set up {x}", "the person behind the creation of {x}"),
        ("was founded by somebody who", "was set up by somebody who"),
        ("was founded by whom", "was set up by which person"),
    ),
    "founded": _inception("inception", "founded"),
    "seat": Relation(
        "headquarters location",
        ("Where is {x} headquartered?", "In which {t} is {x} located?"),
        ("the seat of {x}",),
        ("the {t} where {x} has its headquarters", "the {t} in which {x} is located"),
        ("has its headquarters in a {t} that", "is located in a {t} that"),
        ("has its headquarters in which {t}", "is located in which {t}"),
    ),
}

RELATIONS: dict[str, dict[str, Relation]] = {
    "person": {
        "occupation": Relation(
            "occupation",
            ("What was the profession of {x}?", "What did {x} do for a living?", "What was the occupation of {x}?"),
            ends=("had what profession", "did what for a living"),
        ),
        "born": Relation(
            "date of birth",
            (
                "When was {x} born?",
                "What is the date of birth of {x}?",
                "In which year was {x} born?|year",
                "In what year did {x} first see the light of day?|year",
            ),
            ends=("was born on what date", "was born in which year|year"),
        ),
        "died": Relation(
            "date of death",
            ("When did {x} die?", "What is the date of death of {x}?", "In which year did {x} die?|year"),
            ends=("died on what date", "died in which year|year"),
        ),
        "birthplace": Relation(
            "place of birth",
            ("Where was {x} born?", "In which {t} was {x} born?", "Which {t} did {x} hail from?"),
            ("the birthplace of {x}", "the place of birth of {x}"),
            ("the {t} where {x} first saw the light of day", "the {t} that {x} hailed from"),
            ("hailed from a {t} that", "first saw the light of day in a {t} that"),
            ("hailed from which {t}", "was born in which {t}"),
        ),
        "deathplace": Relation(
            "place of death",
            ("Where did {x} die?", "In which {t} did {x} die?"),
            ("the place of death of {x}", "the deathplace of {x}"),
            ("the {t} where the life of {x} ended", "the {t} in which {x} died"),
            ("died in a {t} that",),
            ("died in which {t}", "ended life in which {t}"),
        ),
        # Two steps through a family have words of their own ("paternal grandfather"): see `comparisons.KIN`.
        "father": Relation(
            "father",
            ("Who was the father of {x}?",),
            ("the father of {x}",),
            ("the man who fathered {x}",),
            ("had a father who",),
            ("was the child of which man", "had whom for a father"),
        ),
        "mother": Relation(
            "mother",
            ("Who was the mother of {x}?",),
            ("the mother of {x}",),
            ("the woman who gave birth to {x}",),
            ("had a mother who",),
            ("was the child of which woman", "had whom for a mother"),
        ),
        "spouse": Relation(
            "spouse",
            ("Who was the spouse of {x}?", "Whom did {x} marry?"),
            ("the spouse of {x}",),
            ("the person to whom {x} was wedded",),
            ("had a spouse who",),
            ("was the spouse of whom",),
        ),
        "school": Relation(
            "educated at",
            ("Where was {x} educated?", "Which {t} did {x} attend?"),
            ("the alma mater of {x}",),
            ("the {t} that {x} attended", "the {t} at which {x} was trained"),
            ("attended a {t} that", "was trained at a {t} that"),
            ("attended which {t}", "was trained at which {t}"),
        ),
        "employer": Relation(
            "employer",
            ("Which {t} did {x} work for?", "Who was the employer of {x}?"),
            ("the employer of {x}",),
            ("the {t} that {x} worked for",),
            ("worked for a {t} that", "was on the staff of a {t} that"),
            ("worked for which {t}", "was on the staff of which {t}"),
        ),
    },
    "work": {
        # The words depend on the kind of work: a novel is written by an author, a film directed by a director.
        "creator": Relation(
            "{role}",
            ("Who {made} {x}?", "Who was the {role} of {x}?"),
            ("the {role} of {x}",),
            ("the person who {made} {x}", "the {role} who gave the world {x}"),
            ("was {done} by somebody who", "had {a_role} who"),
            ("was {done} by whom", "had whom as its {role}"),
        ),
        "published": Relation(
            "publication date",
            ("When did {x} come out?", "What is the publication date of {x}?", "In which year did {x} come out?|year"),
            ends=("came out on what date", "came out in which year|year"),
        ),
        "publisher": Relation(
            "publisher",
            ("Which {t} was responsible for {x}?", "Who was the publisher of {x}?"),
            ("the publisher of {x}",),
            ("the {t} responsible for {x}",),
            ("was published by a {t} that",),
            ("was published by which {t}",),
        ),
        "setting": Relation(
            "narrative location",
            ("Where is {x} set?", "In which {t} is {x} set?"),
            ("the setting of {x}",),
            ("the {t} in which {x} is set", "the {t} where {x} takes place"),
            ("is set in a {t} that", "takes place in a {t} that"),
            ("is set in which {t}", "takes place in which {t}"),
        ),
        "source": Relation(
            "derivative of",
            ("What is {x} derived from?", "Which {t} was adapted into {x}?"),
            ("the literary source of {x}",),
            ("the {t} that was adapted into {x}", "the {t} that inspired {x}"),
            ("was inspired by a {t} that", "was derived from a {t} that"),
            ("was inspired by which {t}", "was derived from which {t}"),
        ),
    },
    "place": {
        "region": Relation(
            "located in",
            ("In which {t} is {x}?", "Which {t} does {x} belong to?"),
            ("the {t} of {x}",),
            ("the {t} where {x} is situated", "the {t} that contains {x}"),
            ("is situated in a {t} that",),
            ("is situated in which {t}", "belongs to which {t}"),
        ),
        "founded": _inception("inception", "founded"),
        "population": Relation(
            "population",
            ("What is the population of {x}?", "How many people live in {x}?"),
            ends=("has how many inhabitants", "has what population"),
        ),
        "landmark": Relation(
            "landmark",
            ("Which {t} is close to {x}?", "What {t} lies near {x}?"),
            ("the {t} near {x}",),
            ("the {t} that lies close to {x}",),
            ("is close to a {t} that", "lies near a {t} that"),
            ("is close to which {t}", "lies near which {t}"),
        ),
        # The only relation from a place to a person: with it, a chain can go from a birthplace on to somebody else.
        "statue": Relation(
            "commemorates",
            ("Who is commemorated by a statue in {x}?", "Who has a statue in {x}?"),
            ("the person commemorated in {x}",),
            ("the person with a statue in {x}", "the person whose likeness was cast for {x}"),
            ("has a statue of somebody who", "keeps alive the memory of somebody who"),
            ("has a statue of whom",),
        ),
    },
    "company": {
        **_ORGANISATION,
        "staff": Relation(
            "employees",
            ("How many people work for {x}?", "How many employees does {x} have?"),
            ends=("has how many employees",),
        ),
    },
    "house": _ORGANISATION,
    "school": {
        **_ORGANISATION,
        "students": Relation(
            "students count",
            ("How many students does {x} have?", "How many people study at {x}?"),
            ends=("has how many students",),
        ),
    },
    "event": {
        "organiser": Relation(
            "organizer",
            ("Who led {x}?", "Who was the organiser of {x}?"),
            ("the organiser of {x}",),
            ("the person in charge of {x}", "the person who led {x}"),
            ("was led by somebody who", "was started by somebody who"),
            ("was led by whom", "was started by whom"),
        ),
        "date": Relation(
            "start time",
            ("When did {x} begin?", "On what date did {x} begin?", "In which year did {x} take place?|year"),
            ends=("began on what date", "took place in which year|year"),
        ),
        "venue": Relation(
            "location",
            ("Where was {x} held?", "In which {t} did {x} happen?"),
            ("the location of {x}",),
            ("the {t} where {x} happened",),
            ("was held in a {t} that", "happened in a {t} that"),
            ("was held in which {t}", "happened in which {t}"),
        ),
        "sponsor": Relation(
            "sponsor",
            ("Who was the sponsor of {x}?", "Which {t} financed {x}?"),
            ("the sponsor of {x}",),
            ("the {t} that financed {x}",),
            ("was financed by a {t} that", "had as its sponsor a {t} that"),
            ("was financed by which {t}",),
        ),
        "participants": Relation(
            "number of participants",
            ("How many people joined {x}?", "How many participants did {x} have?"),
            ends=("had how many participants",),
        ),
    },
    "nature": {
        "region": Relation(
            "located in",
            ("In which {t} is {x}?", "Which {t} does {x} belong to?"),
            ("the {t} of {x}",),
            ("the {t} where {x} is situated",),
            ("is situated in a {t} that",),
            ("is situated in which {t}",),
        ),
        "surveyor": Relation(
            "surveyor",
            ("Who was the first to survey {x}?", "Who first mapped {x}?"),
            ("the first surveyor of {x}",),
            ("the person who first mapped {x}",),
            ("was first mapped by somebody who",),
            ("was first mapped by whom",),
        ),
        "surveyed": _inception("survey date", "first mapped"),
        # The unit is part of the question, as the gold answer is a bare number.
        "elevation": Relation(
            "elevation above sea level",
            ("How many metres above the sea is {x}?", "What is the elevation of {x} in metres?"),
            ends=("lies how many metres above the sea", "has what elevation in metres"),
        ),
    },
    "region": {
        "governor": Relation(
            "first governor",
            ("Who was the first governor of {x}?", "Who was the first to rule {x} as governor?"),
            ("the first governor of {x}",),
            ("the person who first ruled {x} as governor",),
            ("was first ruled by a governor who",),
            ("had whom as its first governor",),
        ),
        "established": _inception("inception", "created"),
        "capital": Relation(
            "capital",
            ("What is the capital of {x}?", "From which {t} is {x} ruled?"),
            ("the capital of {x}",),
            ("the {t} from which {x} is ruled",),
            ("is ruled from a {t} that", "has for its capital a {t} that"),
            ("is ruled from which {t}",),
        ),
        "area": Relation(
            "area",
            ("What is the area of {x} in square kilometres?", "How many square kilometres does {x} measure?"),
            ends=("measures how many square kilometres",),
        ),
    },
}
