"""The wordings of passages. Each kind has a lead and further sentences, each in several wordings of the same facts.

A field is a relation (`{born}`), a relation with its article (`{an_occupation}`) or a word for the subject
(`{name}`, `{short}`, `{noun}`, `{he}`). A sentence is left out if one of its relations has no value.

The tables are written out rather than composed by rules: anybody can check that a wording states its relations and
is good English, and a test checks that all wordings of a sentence state the same ones.
"""

from __future__ import annotations

import string
from typing import NamedTuple

from raggym_env.data.synth.schema import RULES

__all__ = ["LAYOUTS", "Sentence"]


class Sentence(NamedTuple):
    """One sentence of a passage: the relations that it states, and its wordings."""

    relations: tuple[str, ...]
    wordings: tuple[str, ...]


# Shared by companies, houses and schools. After the lead the subject is "it": as in an encyclopedia, a sentence cannot
# be understood without the passage's title.
_ORGANISATION = """
    {name} is {an_noun} founded in {founded}.
    {name} is {an_noun} whose history goes back to {founded}.
    Established in {founded}, {name} is {an_noun}.
    {name} is {an_noun} that opened its doors in {founded}.

    It was the creation of {founder}.
    Its founder was {founder}.
    {founder} brought it into being with borrowed money.
    It owes its existence to {founder}.

    Its head office is in {seat}.
    It is based in {seat}.
    Its main building stands in {seat}.
    From the start it has operated out of {seat}.

"""

# By kind: the lead first, then the sentences that appear in random order, and last the distractor: a neighbour that the
# passage mentions in passing, and for which no question asks. A blank line separates sentences; each line is a wording.
_WORDINGS = {
    "person": """
        {name} ({born} - {died}) was {an_occupation}.
        {name}, born on {born}, was {an_occupation} who died on {died}.
        {name} (born {born}, died {died}) is remembered as {an_occupation}.
        {name} was {an_occupation} whose life lasted from {born} to {died}.

        {He} was born in {birthplace} and died in {deathplace}.
        A native of {birthplace}, {short} spent {his} last days in {deathplace}, where {he} died.
        {short} came into the world in {birthplace} and passed away in {deathplace}.
        {birthplace} was {his} birthplace, and {deathplace} the scene of {his} death.

        {His} father was {father} and {his} mother {mother}.
        {short} was the {child} of {father} and his wife {mother}.
        {mother} was {his} mother, and {father} {his} father.
        {short} grew up with {his} father, {father}, and {his} mother, {mother}.

        {He} studied at {school}.
        {short} received {his} education at {school}.
        {short} was a graduate of {school}.
        After a sickly childhood {he} enrolled at {school}.

        For most of {his} career {he} was employed by {employer}.
        {short} was on the payroll of {employer} for many years.
        {He} earned {his} living at {employer}.
        A post at {employer} kept {him} out of debt.

        {He} married {spouse}.
        {short} was married to {spouse}.
        {His} {partner} was {spouse}.
        {He} exchanged vows with {spouse} in a quiet ceremony.

        {short} kept up a long correspondence with {peer}.
        {His} quarrel with {peer} filled the newspapers.
        {short} belonged for a time to the circle around {peer}.
    """,
    "work": """
        {name} is {an_noun} {done} by {creator}.
        {name} is {an_noun} by {creator}.
        {name} is {an_noun} from the hand of {creator}.
        {name} is the best known {noun} of {creator}.

        It was first presented on {published}.
        It reached the public on {published}.
        Its first appearance dates from {published}.
        It was unveiled on {published}.

        {publisher} paid for it and sold it.
        It was issued by {publisher}.
        It was produced by {publisher}.
        {publisher} acquired the rights and brought it out.

        The story unfolds in {setting}.
        The action is laid in {setting}.
        Its scenes play out in {setting}.
        The plot is located in {setting}.

        The plot is taken from {source}.
        It is based on {source}.
        It is an adaptation of {source}.
        It borrows its characters and story from {source}.

        Critics have set it beside {peer}.
        It was less successful than {peer}.
        It shared its first season with {peer}.
    """,
    "place": """
        {name} is {an_noun} in the {region}.
        {name} is {an_noun} that lies in the {region}.
        {name}, {an_noun}, forms part of the {region}.
        Within the {region} lies {name}, {an_noun}.

        It was founded in {founded}.
        Its charter dates from {founded}.
        Settlement began in {founded}.
        The oldest record of its foundation is of {founded}.

        The last census counted {population} inhabitants.
        It has a population of {population}.
        It is home to {population} people.
        Some {population} souls live there.

        {landmark} can be seen from its rooftops.
        It looks out on {landmark}.
        The road to {landmark} begins there.
        Its coat of arms shows {landmark}.

        A statue on the market square honours {statue}.
        The monument before the town hall shows {statue}.
        A bronze statue commemorates {statue}.
        Its only monument is dedicated to {statue}.

        A coach road connects it with {peer}.
        It holds a yearly fair together with {peer}.
        It has an old rivalry with {peer}.
    """,
    "company": _ORGANISATION
    + """
        It has a workforce of {staff}.
        It employs {staff} people.
        Some {staff} employees work for it.

        A merger with {peer} came to nothing.
        Its fiercest competitor was {peer}.
    """,
    "house": _ORGANISATION
    + """
        A merger with {peer} came to nothing.
        Its fiercest competitor was {peer}.
    """,
    "school": _ORGANISATION
    + """
        It has {students} students.
        Enrolment stands at {students}.
        Some {students} students attend it.

        It exchanges teachers with {peer}.
        Its rowers compete with those of {peer}.
    """,
    "event": """
        The {name} was {an_noun} that began on {date}.
        The {name}, {an_noun}, started on {date}.
        On {date} the {name} got under way; it was {an_noun}.
        The {name} is the name of {an_noun} of {date}.

        It was organised by {organiser}.
        The driving force behind it was {organiser}.
        {organiser} planned and led it.
        It was the idea of {organiser}, who took charge of it.

        It took place in {venue}.
        The scene was {venue}.
        {venue} was chosen as the site.
        Everything happened within sight of {venue}.

        The money came from {sponsor}.
        {sponsor} met the costs.
        It was paid for by {sponsor}.

        {participants} people took part.
        The number of participants was {participants}.
        It drew {participants} participants.

        It is often compared with the {peer}.
        Newspapers had more to say about the {peer}.
    """,
    "nature": """
        {name} is {an_noun} in the {region}.
        {name} is {an_noun} that belongs to the {region}.
        In the {region} lies {name}, {an_noun}.

        It was first surveyed by {surveyor} in {surveyed}.
        {surveyor} drew the first reliable map of it in {surveyed}.
        In {surveyed} {surveyor} made the first survey of it.
        The earliest survey, of {surveyed}, is the work of {surveyor}.

        It lies {elevation} metres above sea level.
        Its elevation is {elevation} metres.
        The official maps give its height above the sea as {elevation} metres.

        It is less visited than {peer}.
        Older maps confuse it with {peer}.
    """,
    "region": """
        The {name} is {an_noun} established in {established}.
        The {name} is {an_noun} that was set up in {established}.
        The {name} became {an_noun} in {established}.

        Its first governor was {governor}.
        {governor} was the first to govern it.
        The office of governor was first held by {governor}.

        Its capital is {capital}.
        It is administered from {capital}.
        {capital} serves as its capital.

        It covers {area} square kilometres.
        Its area is {area} square kilometres.

        A treaty settles its border with the {peer}.
        It shares a court of appeal with the {peer}.
    """,
}


def _sentence(kind: str, paragraph: str) -> Sentence:
    wordings = tuple(line.strip() for line in paragraph.strip().splitlines())
    fields = {name.removeprefix("an_") for _, name, _, _ in string.Formatter().parse(wordings[0]) if name}
    # In the order of the rules rather than of the wording, which differs between wordings.
    return Sentence(tuple(rule.name for rule in RULES[kind] if rule.name in fields), wordings)


LAYOUTS = {
    kind: tuple(_sentence(kind, paragraph) for paragraph in text.strip().split("\n\n"))
    for kind, text in _WORDINGS.items()
}
"""For each kind: the lead, the sentences that follow in any order, and last the distractor."""
