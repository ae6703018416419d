"""Endless questions over a world: chains of relations and comparisons, each with its answer and gold evidence.

A question is drawn at random and rejected if it is not sound, for example because a later passage of its chain names
the entity that the chain starts from, which would allow a shortcut.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raggym_env.core import Evidence, Fact, Question, Task
from raggym_env.data.synth.comparisons import ALIKE, FIRST, KIN, VIA, Compare
from raggym_env.data.synth.relations import NOUNS, RELATIONS, Relation
from raggym_env.data.synth.values import Literal, Ref, Value, date_text, with_article
from raggym_env.data.synth.world import SynthWorld
from raggym_env.storage.lru import LRU

__all__ = ["MIX", "generate_tasks"]

# A fixed cycle rather than random types: the first N questions of any stream have the same mix, whatever N is.
MIX = (
    *("bridge", "comparison", "compositional", "bridge", "bridge_comparison"),
    *("bridge", "compositional", "comparison", "bridge", "inference"),
    *("bridge", "comparison", "compositional", "bridge", "bridge_comparison"),
    *("bridge", "comparison", "compositional", "inference", "bridge_comparison"),
)
"""The types of twenty successive questions. Every stream repeats them in this order."""

# The kinds that a chain starts from, and how often: mostly works and people, as in HotpotQA.
_ANCHORS = ("work", "person", "place", "event", "company", "house", "school", "nature", "region")
_ANCHOR_WEIGHTS = (6, 3, 2, 2, 1, 1, 1, 1, 1)
# A question's hash modulo 10 decides which streams may have it: 60 % train, 10 % dev, 20 % test, 10 % all others.
_BUCKETS = {"train": range(6), "dev": range(6, 7), "test": range(7, 9)}
_OTHERS = range(9, 10)
_REMEMBERED = 4096  # recent questions of a stream that are not repeated
_TRIES = 200  # before a small world counts as exhausted


class Step(NamedTuple):
    """One link of a chain: an entity, one of its relations, and the value, which the entity's passage states."""

    subject: Ref
    relation: str
    value: Value


@dataclass(frozen=True)
class Draft:
    """A question with its evidence, before it has an id."""

    text: str
    answers: tuple[str, ...]
    steps: tuple[Step, ...]
    entities: tuple[Ref, ...]
    """The entities that the question names."""
    source: str
    """The data set whose style the question has: "hotpotqa" or "2wikimultihopqa"."""

    @property
    def key(self) -> str:
        """Identifies the question whatever its wording: equal for equal questions."""
        names = sorted(f"{ref.kind}{ref.number}" for ref in self.entities)
        relations = [step.relation for step in self.steps]
        # The two chains of a comparison follow the same relations, and either entity may come first.
        return f"{'+'.join(names)}:{'/'.join(dict.fromkeys(relations) if len(names) > 1 else relations)}"


def generate_tasks(world: SynthWorld, stream: str = "train") -> Iterator[Task]:
    """Generate endless questions over a world. The same world and stream give the same questions.

    The streams "train", "dev" and "test" share no question. Any other name gives another stream, which shares no
    question with those three but may share some with other such streams. A stream repeats a question only after
    thousands of others or, in a small world, when it has no new ones left.
    """
    rng = random.Random(f"{world.fingerprint}:{stream}")
    recent = LRU[bytes, None](_REMEMBERED)
    for number in itertools.count():
        question_type = MIX[number % len(MIX)]
        draft = _new_draft(world, rng, question_type, _BUCKETS.get(stream, _OTHERS), recent)
        supporting, evidences = [], []
        for step in draft.steps:
            page = world.page(step.subject)
            supporting.append(Fact(page.title, page.stated[step.relation]))
            label = _relation(step).label.format_map(world.words(step.subject))
            value = step.value.text if isinstance(step.value, Literal) else world.title(step.value)
            evidences.append(Evidence(page.title, label, value))
        yield Task(
            Question(f"synth-{stream}-{number:06d}", draft.text),
            draft.answers,
            supporting=tuple(supporting),
            evidences=tuple(evidences),
            type=question_type,
            metadata={"hops": len(draft.steps), "source": draft.source},
        )


def _new_draft(
    world: SynthWorld, rng: random.Random, question_type: str, buckets: range, recent: LRU[bytes, None]
) -> Draft:
    """Draw questions until one is sound, belongs to the stream and was not asked recently."""
    for attempt in itertools.count():
        draft = _MAKERS[question_type](world, rng)
        if draft is None:
            continue
        # Not Python's hash(), which differs between processes.
        key = hashlib.blake2b(draft.key.encode(), digest_size=8).digest()
        if key[0] % 10 not in buckets or (key in recent and attempt < _TRIES):
            continue
        if key not in recent:  # a repeated question keeps its age, so that it may be asked again in its turn
            recent[key] = None
        return draft
    raise AssertionError("unreachable")


# -- chains ------------------------------------------------------------------------------------------------------


def _bridge(world: SynthWorld, rng: random.Random) -> Draft | None:
    """Draw a chain of two to four steps in the style of HotpotQA's bridge questions."""
    steps = _walk(world, rng, rng.choices((2, 3, 4), (12, 5, 3))[0])
    if not steps:
        return None
    if rng.random() < 0.5:
        phrase, form = _nested_question(world, rng, steps, "clauses")
    else:
        # The chain in forward order: "X was directed by somebody who hailed from a place that ..."
        links = [_fill(world, step, rng.choice(_relation(step).links)) for step in steps[:-1]]
        end, _, form = rng.choice(_relation(steps[-1]).ends).partition("|")
        phrase = " ".join((mention(world, steps[0].subject), *links, _fill(world, steps[-1], end))) + "?"
    return _chain_draft(world, steps, phrase, form, "hotpotqa")


def _compositional(world: SynthWorld, rng: random.Random) -> Draft | None:
    """Draw a chain of noun phrases in the style of 2WikiMultihopQA: "the employer of the author of X"."""
    steps = _walk(world, rng, rng.choices((2, 3), (3, 1))[0])
    # Two steps through a family are questions of the type "inference".
    if not steps or tuple(step.relation for step in steps[:2]) in KIN:
        return None
    return _chain_draft(world, steps, *_nested_question(world, rng, steps, "nouns"), "2wikimultihopqa")


def _inference(world: SynthWorld, rng: random.Random) -> Draft | None:
    """Draw a question about a relative over two steps, such as a grandfather, which no passage calls by that word."""
    path = rng.choice(list(KIN))
    first = _step(world, _random_ref(world, rng, "person"), path[0])
    second = first and _step(world, first.value, path[1])
    if not first or not second:
        return None
    kin = f"the {KIN[path]} of {mention(world, first.subject)}"
    if rng.random() < 0.75:
        text = rng.choice(("Who is {}?", "Who was {}?")).format(kin)
        return _chain_draft(world, (first, second), text, "", "2wikimultihopqa")
    third = _any_step(world, rng, second.value, last=True)
    # A chain that returns to the person named in the question, or to the parent in between, has a trivial answer.
    if third is None or third.value in (first.subject, first.value):
        return None
    text, _, form = rng.choice(_relation(third).asks).partition("|")
    return _chain_draft(world, (first, second, third), _fill(world, third, text, kin), form, "2wikimultihopqa")


def _nested_question(world: SynthWorld, rng: random.Random, steps: Sequence[Step], style: str) -> tuple[str, str]:
    """Word a chain from the inside out, in phrases of the field `style` of `Relation`; return text and answer form."""
    phrase = mention(world, steps[0].subject)
    for step in steps[:-1]:
        phrase = _fill(world, step, rng.choice(getattr(_relation(step), style)), phrase)
    text, _, form = rng.choice(_relation(steps[-1]).asks).partition("|")
    return _fill(world, steps[-1], text, phrase), form


def _chain_draft(world: SynthWorld, steps: Sequence[Step], text: str, form: str, source: str) -> Draft:
    answers = answers_for(world, steps[-1].value, form)
    return Draft(text[0].upper() + text[1:], answers, tuple(steps), (steps[0].subject,), source)


def _walk(world: SynthWorld, rng: random.Random, hops: int) -> list[Step] | None:
    """Draw a chain of `hops` relations from a random entity that no later passage of the chain mentions."""
    anchor = _random_ref(world, rng, rng.choices(_ANCHORS, _ANCHOR_WEIGHTS)[0])
    steps: list[Step] = []
    for hop in range(hops):
        path = [anchor, *(step.value for step in steps)]
        step = _any_step(world, rng, path[-1], last=hop == hops - 1)
        if step is None or step.value in path:
            return None
        steps.append(step)
    # Otherwise one search for the named entity would find the later passages, too, and the chain would be no chain.
    name = world.name(anchor)
    later = (text for step in steps[1:] for text in world.page(step.subject).sentences)
    return None if any(name in text for text in later) else steps


def _any_step(world: SynthWorld, rng: random.Random, subject: Value, last: bool) -> Step | None:
    """Draw a relation of the subject. Only the last step of a chain may have a literal as its value."""
    if not isinstance(subject, Ref):
        return None
    step = _step(world, subject, rng.choice(list(RELATIONS[subject.kind])))
    return step if step and (last or isinstance(step.value, Ref)) else None


def _step(world: SynthWorld, subject: Value, relation: str) -> Step | None:
    """Return the step of a relation; None if the subject has no such value or is a literal."""
    if not isinstance(subject, Ref) or (value := world.facts(subject).get(relation)) is None:
        return None
    return Step(subject, relation, value)


# -- comparisons -------------------------------------------------------------------------------------------------


def _comparison(world: SynthWorld, rng: random.Random) -> Draft | None:
    """Draw a comparison of two entities by their own values."""
    kind = rng.choice(list(FIRST))
    if kind in ALIKE and rng.random() < 0.4:
        return _yes_or_no(world, rng, kind, (), rng.choice(ALIKE[kind]))
    compare = rng.choice(FIRST[kind])
    pair = _pair(world, rng, kind, (compare.relation,))
    if pair is None:
        return None
    return _winner(world, pair, compare, rng.choice(compare.asks), "hotpotqa")


def _bridge_comparison(world: SynthWorld, rng: random.Random) -> Draft | None:
    """Draw a comparison of two entities by values of entities in between, such as their founders."""
    kind = rng.choices(_ANCHORS, _ANCHOR_WEIGHTS)[0]
    relations = [relation for relation in RELATIONS[kind] if relation in VIA]
    via = rng.choice(relations) if relations else ""
    probe = _step(world, _random_ref(world, rng, kind), via)
    if probe is None or not isinstance(probe.value, Ref):
        return None
    target = probe.value.kind
    if target in ALIKE and rng.random() < 0.4:
        return _yes_or_no(world, rng, kind, (via,), rng.choice(ALIKE[target]))
    compare = rng.choice(FIRST[target])
    pair = _pair(world, rng, kind, (via, compare.relation))
    # A question has one word for both: a novel's author and a film's director cannot be compared.
    if pair is None or world.words(pair[0][0].subject).get("role") != world.words(pair[1][0].subject).get("role"):
        return None
    which = "Who" if kind == "person" else "Which"
    word = VIA[via].format_map(world.words(pair[0][0].subject))
    text = f"{which} has the {word} {compare.criterion}, {{a}} or {{b}}?"
    return _winner(world, pair, compare, text, "2wikimultihopqa")


_Pair = tuple[list[Step], list[Step]]


def _pair(world: SynthWorld, rng: random.Random, kind: str, relations: Sequence[str]) -> _Pair | None:
    """Draw two entities of a kind that both have all of a chain of relations and do not meet on the way."""
    first = _random_ref(world, rng, kind)
    # Half of the pairs are neighbours: they are of one time and place, so that comparing them takes exact values.
    if rng.random() < 0.5:
        second = _random_ref(world, rng, kind)
    else:
        second = Ref(kind, (first.number + rng.choice((-1, 1)) * rng.randint(1, 12)) % world.counts[kind])
    a, b = _follow(world, first, relations), _follow(world, second, relations)
    if not a or not b or world.name(first) == world.name(second) or a[-1].subject == b[-1].subject:
        return None
    return a, b


def _follow(world: SynthWorld, start: Ref, relations: Sequence[str]) -> list[Step] | None:
    steps: list[Step] = []
    for relation in relations:
        step = _step(world, steps[-1].value if steps else start, relation)
        if step is None:
            return None
        steps.append(step)
    return steps


def _winner(world: SynthWorld, pair: _Pair, compare: Compare, text: str, source: str) -> Draft | None:
    first, second = (chain[-1].value for chain in pair)
    if not isinstance(first, Literal) or not isinstance(second, Literal) or _rank(first) == _rank(second):
        return None
    a, b = pair[0][0].subject, pair[1][0].subject
    answer = a if (_rank(first) > _rank(second)) == compare.largest else b
    text = text.format(a=mention(world, a), b=mention(world, b))
    return Draft(text, answers_for(world, answer), (*pair[0], *pair[1]), (a, b), source)


def _rank(value: Literal) -> int:
    # Dates compare by their year: who of two people of the same year is older is not a question worth asking.
    return value.order if isinstance(value.order, int) else value.order[0]


def _yes_or_no(world: SynthWorld, rng: random.Random, kind: str, via: tuple[str, ...], alike: Compare) -> Draft | None:
    # The answer is drawn first: of random pairs nearly all would differ, and "no" would always be a good guess.
    same = rng.random() < 0.5
    pairs = (_pair(world, rng, kind, (*via, alike.relation)) for _ in range(_TRIES))
    pair = next((pair for pair in pairs if pair and (pair[0][-1].value == pair[1][-1].value) == same), None)
    if pair is None:
        return None
    a, b = (mention(world, chain[0].subject) for chain in pair)
    if via:
        a, b = (
            _fill(world, chain[0], _relation(chain[0]).nouns[0], name) for chain, name in zip(pair, (a, b), strict=True)
        )
    text = rng.choice(alike.asks).format(a=a, b=b)
    text = text[0].upper() + text[1:]
    if any(isinstance(chain[-1].value, Literal) and chain[-1].value.text in text for chain in pair):
        return None  # "Did the poet A and the poet B have the same profession?"
    entities = (pair[0][0].subject, pair[1][0].subject)
    source = "2wikimultihopqa" if via else "hotpotqa"
    return Draft(text, ("yes" if same else "no",), (*pair[0], *pair[1]), entities, source)


# -- words -------------------------------------------------------------------------------------------------------


def mention(world: SynthWorld, ref: Ref) -> str:
    """Return a question's mention of an entity: its name, with its noun if the name alone would be ambiguous."""
    if ref.kind == "work" or (ref.kind == "person" and world.label(ref) != world.name(ref)):
        return f"the {world.noun(ref)} {world.name(ref)}"
    return f"the {world.name(ref)}" if ref.kind in ("event", "region") else world.name(ref)


def answers_for(world: SynthWorld, value: Value, form: str = "") -> tuple[str, ...]:
    """Return the answer as its passage states it, then other spellings that count as correct.

    With `form` "year", the answer to a question about a date is its year.
    """
    if isinstance(value, Ref):
        name = world.name(value)
        # Without accents, as people and models type names. NFKD splits accents off, but "ø" is a letter of its own.
        plain = unicodedata.normalize("NFKD", name.replace("ø", "o").replace("Ø", "O"))
        return _distinct(name, world.title(value), mention(world, value), plain.encode("ascii", "ignore").decode())
    if isinstance(value.order, tuple):
        year, month, day = value.order
        if form == "year":
            return (str(year),)
        return _distinct(value.text, *(date_text(year, month, day, style) for style in (0, 1)))
    return _distinct(value.text, value.text.replace(",", ""))


def _distinct(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _relation(step: Step) -> Relation:
    return RELATIONS[step.subject.kind][step.relation]


def _fill(world: SynthWorld, step: Step, wording: str, x: str = "") -> str:
    """Fill the fields of a wording of `Relation`; `x` is the subject."""
    words = {**world.words(step.subject), "x": x}
    if isinstance(step.value, Ref):
        words["t"] = NOUNS.get(step.value.kind, step.value.kind)
    if "role" in words:
        words["a_role"] = with_article(words["role"])
    return wording.format_map(words)


def _random_ref(world: SynthWorld, rng: random.Random, kind: str) -> Ref:
    return Ref(kind, rng.randrange(world.counts[kind]))


_MAKERS: dict[str, Callable[[SynthWorld, random.Random], Draft | None]] = {
    "bridge": _bridge,
    "comparison": _comparison,
    "compositional": _compositional,
    "inference": _inference,
    "bridge_comparison": _bridge_comparison,
}
