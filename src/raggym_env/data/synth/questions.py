"""Endless questions over a world: chains of relations and comparisons, each with its answer and its proof."""

from __future__ import annotations

import hashlib
import itertools
import random
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raggym_env.core import Evidence, Fact, Question, Task
from raggym_env.data.synth.comparisons import ALIKE, FIRST, KIN, VIA, Alike, First
from raggym_env.data.synth.relations import NOUNS, RELATIONS, Relation
from raggym_env.data.synth.values import Literal, Page, Ref, Value, date_text, with_article
from raggym_env.data.synth.world import SynthWorld

__all__ = ["MIX", "generate_tasks"]

MIX = (
    *("bridge", "comparison", "compositional", "bridge", "bridge_comparison"),
    *("bridge", "compositional", "comparison", "bridge", "inference"),
    *("bridge", "comparison", "compositional", "bridge", "bridge_comparison"),
    *("bridge", "comparison", "compositional", "inference", "bridge_comparison"),
)
"""The types of twenty successive questions: every stream repeats this."""

_ANCHORS = {
    "work": 6,
    "person": 3,
    "place": 2,
    "event": 2,
    "company": 1,
    "house": 1,
    "school": 1,
    "nature": 1,
    "region": 1,
}
_BUCKETS = {"train": range(6), "dev": range(6, 7), "test": range(7, 9)}
_OTHERS = range(9, 10)
_REMEMBERED = 4096  # questions that are not asked again
_TRIES = 200


class Step(NamedTuple):
    """One link of a chain: a thing, the relation asked of it, and the value, which its passage states."""

    subject: Ref
    relation: str
    value: Value


@dataclass(frozen=True)
class Draft:
    """A question with its proof, before it has an id."""

    text: str
    answers: tuple[str, ...]
    steps: tuple[Step, ...]
    about: tuple[Ref, ...]
    """The things that the question names."""
    source: str

    @property
    def key(self) -> str:
        """What is asked, however it is worded: equal for equal questions."""
        named = sorted(f"{ref.kind}{ref.number}" for ref in self.about)
        relations = dict.fromkeys(step.relation for step in self.steps) if len(named) > 1 else self._chain()
        return f"{'+'.join(named)}:{'/'.join(relations)}"

    def _chain(self) -> Sequence[str]:
        return [step.relation for step in self.steps]


def generate_tasks(world: SynthWorld, stream: str = "train") -> Iterator[Task]:
    """Generate endless questions over a world, the same for the same world and stream.

    The streams "train", "dev" and "test" share no question. Any other name gives another stream, drawn from
    questions that none of those three has; two such streams may share some. A stream repeats a question only after
    thousands of others or, in a small world, when it has run out of new ones.
    """
    rng = random.Random(f"{world.fingerprint}:{stream}")
    recent: OrderedDict[bytes, None] = OrderedDict()
    for number in itertools.count():
        kind = MIX[number % len(MIX)]
        draft = _fresh(world, rng, kind, _BUCKETS.get(stream, _OTHERS), recent)
        yield _task(world, draft, kind, f"synth-{stream}-{number:06d}")


def _fresh(world: SynthWorld, rng: random.Random, kind: str, buckets: range, recent: OrderedDict[bytes, None]) -> Draft:
    for attempt in itertools.count():
        draft = _MAKERS[kind](world, rng)
        if draft is None:
            continue
        key = hashlib.blake2b(draft.key.encode(), digest_size=8).digest()
        if key[0] % 10 not in buckets or (key in recent and attempt < _TRIES):
            continue
        recent[key] = None
        if len(recent) > _REMEMBERED:
            recent.popitem(last=False)
        return draft
    raise AssertionError("unreachable")


def _task(world: SynthWorld, draft: Draft, kind: str, identifier: str) -> Task:
    return Task(
        Question(identifier, draft.text),
        draft.answers,
        supporting=tuple(_fact(world.page(step.subject), step.relation) for step in draft.steps),
        evidences=tuple(_evidence(world, step) for step in draft.steps),
        type=kind,
        metadata={"hops": len(draft.steps), "source": draft.source},
    )


def _fact(page: Page, relation: str) -> Fact:
    return Fact(page.title, page.stated[relation])


def _evidence(world: SynthWorld, step: Step) -> Evidence:
    label = _relation(step).label.format_map(world.words(step.subject))
    value = step.value.text if isinstance(step.value, Literal) else world.title(step.value)
    return Evidence(world.title(step.subject), label, value)


# -- chains ------------------------------------------------------------------------------------------------------


def _bridge(world: SynthWorld, rng: random.Random) -> Draft | None:
    steps = _walk(world, rng, rng.choices((2, 3, 4), (12, 5, 3))[0])
    if not steps:
        return None
    if rng.random() < 0.5:
        phrase, form = _asked(world, rng, steps, "clauses")
    else:
        links = [_fill(world, step, rng.choice(_relation(step).links)) for step in steps[:-1]]
        end, _, form = rng.choice(_relation(steps[-1]).ends).partition("|")
        phrase = " ".join((mention(world, steps[0].subject), *links, _fill(world, steps[-1], end))) + "?"
    return _chain_draft(world, steps, phrase, form, "hotpotqa")


def _compositional(world: SynthWorld, rng: random.Random) -> Draft | None:
    steps = _walk(world, rng, rng.choices((2, 3), (3, 1))[0])
    if not steps or tuple(step.relation for step in steps[:2]) in KIN:
        return None
    return _chain_draft(world, steps, *_asked(world, rng, steps, "nouns"), "2wikimultihopqa")


def _inference(world: SynthWorld, rng: random.Random) -> Draft | None:
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
    if third is None or third.value in (first.subject, first.value):
        return None
    text, _, form = rng.choice(_relation(third).asks).partition("|")
    return _chain_draft(world, (first, second, third), _fill(world, third, text, kin), form, "2wikimultihopqa")


def _asked(world: SynthWorld, rng: random.Random, steps: Sequence[Step], style: str) -> tuple[str, str]:
    phrase = mention(world, steps[0].subject)
    for step in steps[:-1]:
        phrase = _fill(world, step, rng.choice(getattr(_relation(step), style)), phrase)
    text, _, form = rng.choice(_relation(steps[-1]).asks).partition("|")
    return _fill(world, steps[-1], text, phrase), form


def _chain_draft(world: SynthWorld, steps: Sequence[Step], text: str, form: str, source: str) -> Draft:
    answers = answers_for(world, steps[-1].value, form)
    return Draft(_capitalised(text), answers, tuple(steps), (steps[0].subject,), source)


def _walk(world: SynthWorld, rng: random.Random, hops: int) -> list[Step] | None:
    """A chain of `hops` relations from a random thing that no later passage of the chain mentions."""
    anchor = _random_ref(world, rng, rng.choices(list(_ANCHORS), list(_ANCHORS.values()))[0])
    at: Value = anchor
    steps: list[Step] = []
    visited = {anchor}
    for hop in range(hops):
        step = _any_step(world, rng, at, last=hop == hops - 1)
        if step is None or step.value in visited:
            return None
        steps.append(step)
        at = step.value
        if isinstance(at, Ref):
            visited.add(at)
    name = world.name(anchor)
    later = (text for step in steps[1:] for text in world.page(step.subject).sentences)
    return None if any(name in text for text in later) else steps


def _any_step(world: SynthWorld, rng: random.Random, subject: Value, last: bool) -> Step | None:
    if not isinstance(subject, Ref):
        return None
    step = _step(world, subject, rng.choice(list(RELATIONS[subject.kind])))
    return step if step and (last or isinstance(step.value, Ref)) else None


def _step(world: SynthWorld, subject: Value, relation: str) -> Step | None:
    """The relation of a thing, if it has a value."""
    if not isinstance(subject, Ref) or (value := world.facts(subject).get(relation)) is None:
        return None
    return Step(subject, relation, value)


# -- comparisons -------------------------------------------------------------------------------------------------


def _comparison(world: SynthWorld, rng: random.Random) -> Draft | None:
    kind = rng.choice(list(FIRST))
    if kind in ALIKE and rng.random() < 0.4:
        return _yes_or_no(world, rng, kind, (), rng.choice(ALIKE[kind]))
    compare = rng.choice(FIRST[kind])
    pair = _pair(world, rng, kind, (compare.relation,))
    if pair is None:
        return None
    return _winner(world, pair, compare, rng.choice(compare.asks), "hotpotqa")


def _bridge_comparison(world: SynthWorld, rng: random.Random) -> Draft | None:
    kind = rng.choices(list(_ANCHORS), list(_ANCHORS.values()))[0]
    rules = [relation for relation in RELATIONS[kind] if relation in VIA]
    via = rng.choice(rules) if rules else ""
    probe = _step(world, _random_ref(world, rng, kind), via)
    if probe is None or not isinstance(probe.value, Ref):
        return None
    target = probe.value.kind
    if target in ALIKE and rng.random() < 0.4:
        return _yes_or_no(world, rng, kind, (via,), rng.choice(ALIKE[target]))
    compare = rng.choice(FIRST[target])
    pair = _pair(world, rng, kind, (via, compare.relation))
    if pair is None or world.words(pair[0][0].subject).get("role") != world.words(pair[1][0].subject).get("role"):
        return None
    which = "Who" if kind == "person" else "Which"
    word = VIA[via].format_map(world.words(pair[0][0].subject))
    text = f"{which} has the {word} {compare.criterion}, {{a}} or {{b}}?"
    return _winner(world, pair, compare, text, "2wikimultihopqa")


_Pair = tuple[list[Step], list[Step]]


def _pair(world: SynthWorld, rng: random.Random, kind: str, relations: Sequence[str]) -> _Pair | None:
    """Two things of a kind with all of a chain of relations each, and nothing in common on the way."""
    first = _random_ref(world, rng, kind)
    second = _other(world, rng, first)
    chains = _follow(world, first, relations), _follow(world, second, relations)
    if not chains[0] or not chains[1] or world.name(first) == world.name(second):
        return None
    if chains[0][-1].subject == chains[1][-1].subject:
        return None
    return chains[0], chains[1]


def _other(world: SynthWorld, rng: random.Random, first: Ref) -> Ref:
    count = world.counts[first.kind]
    if rng.random() < 0.5:
        return _random_ref(world, rng, first.kind)
    return Ref(first.kind, (first.number + rng.choice((-1, 1)) * rng.randint(1, 12)) % count)


def _follow(world: SynthWorld, start: Ref, relations: Sequence[str]) -> list[Step] | None:
    steps: list[Step] = []
    at: Value = start
    for relation in relations:
        step = _step(world, at, relation)
        if step is None:
            return None
        steps.append(step)
        at = step.value
    return steps


def _winner(world: SynthWorld, pair: _Pair, compare: First, text: str, source: str) -> Draft | None:
    first, second = (chain[-1].value for chain in pair)
    if not isinstance(first, Literal) or not isinstance(second, Literal) or _rank(first) == _rank(second):
        return None
    a, b = pair[0][0].subject, pair[1][0].subject
    answer = a if (_rank(first) > _rank(second)) == compare.largest else b
    text = text.format(a=mention(world, a), b=mention(world, b))
    return Draft(text, answers_for(world, answer), (*pair[0], *pair[1]), (a, b), source)


def _rank(value: Literal) -> int:
    # Two dates in one year are as good as a tie to a reader.
    return value.order if isinstance(value.order, int) else value.order[0]


def _yes_or_no(world: SynthWorld, rng: random.Random, kind: str, via: tuple[str, ...], alike: Alike) -> Draft | None:
    wanted = rng.random() < 0.5
    pairs = (_pair(world, rng, kind, (*via, alike.relation)) for _ in range(_TRIES))
    pair = next((pair for pair in pairs if pair and _same(pair) == wanted), None)
    if pair is None:
        return None
    a, b = (_phrase(world, chain, via) for chain in pair)
    text = _capitalised(rng.choice(alike.asks).format(a=a, b=b))
    if any(isinstance(chain[-1].value, Literal) and chain[-1].value.text in text for chain in pair):
        return None  # "Did the poet A and the poet B have the same profession?"
    about = (pair[0][0].subject, pair[1][0].subject)
    source = "2wikimultihopqa" if via else "hotpotqa"
    return Draft(text, ("yes" if wanted else "no",), (*pair[0], *pair[1]), about, source)


def _same(pair: _Pair) -> bool:
    return pair[0][-1].value == pair[1][-1].value


def _phrase(world: SynthWorld, chain: Sequence[Step], via: tuple[str, ...]) -> str:
    named = mention(world, chain[0].subject)
    return _fill(world, chain[0], _relation(chain[0]).nouns[0], named) if via else named


# -- words -------------------------------------------------------------------------------------------------------


def mention(world: SynthWorld, ref: Ref) -> str:
    """How a question names a thing, so that it can mean nothing else."""
    if ref.kind == "work" or (ref.kind == "person" and world.label(ref) != world.name(ref)):
        return f"the {world.noun(ref)} {world.name(ref)}"
    return f"the {world.name(ref)}" if ref.kind in ("event", "region") else world.name(ref)


def answers_for(world: SynthWorld, value: Value, form: str = "") -> tuple[str, ...]:
    """The answer as its passage has it, then the other ways to write it; `form` "year" takes a date's year."""
    if isinstance(value, Ref):
        name = world.name(value)
        return _distinct(name, world.title(value), mention(world, value), _ascii(name))
    if isinstance(value.order, tuple):
        year, month, day = value.order
        if form == "year":
            return (str(year),)
        return _distinct(value.text, *(date_text(year, month, day, style) for style in (0, 1)))
    return _distinct(value.text, value.text.replace(",", ""))


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.replace("ø", "o").replace("Ø", "O"))
    return plain.encode("ascii", "ignore").decode()


def _distinct(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _relation(step: Step) -> Relation:
    return RELATIONS[step.subject.kind][step.relation]


def _fill(world: SynthWorld, step: Step, wording: str, x: str = "") -> str:
    words = {**world.words(step.subject), "x": x}
    if isinstance(step.value, Ref):
        words["t"] = NOUNS[step.value.kind]
    if "role" in words:
        words["a_role"] = with_article(words["role"])
    return wording.format_map(words)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _random_ref(world: SynthWorld, rng: random.Random, kind: str) -> Ref:
    return Ref(kind, rng.randrange(world.counts[kind]))


_MAKERS: dict[str, Callable[[SynthWorld, random.Random], Draft | None]] = {
    "bridge": _bridge,
    "comparison": _comparison,
    "compositional": _compositional,
    "inference": _inference,
    "bridge_comparison": _bridge_comparison,
}
