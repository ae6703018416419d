import itertools
from collections import Counter

import pytest

from raggym_env.data.synth import SynthWorld, generate_tasks
from raggym_env.data.synth.questions import MIX, answers_for
from raggym_env.data.synth.relations import RELATIONS
from raggym_env.data.synth.schema import RULES
from raggym_env.data.synth.values import Literal

CHAINS = {"bridge", "compositional", "inference"}


@pytest.fixture(scope="module")
def world():
    return SynthWorld()


@pytest.fixture(scope="module")
def tasks(world):
    return list(itertools.islice(generate_tasks(world), 600))


@pytest.fixture(scope="module")
def sentences(world):
    pages = (world.page(world.ref(number)) for number in range(len(world)))
    return {page.title: page.sentences for page in pages}


def test_questions_are_the_same_in_every_run(tasks):
    assert list(itertools.islice(generate_tasks(SynthWorld(), "train"), 50)) == tasks[:50]


def test_ids_are_the_stream_and_the_number(tasks):
    assert [tasks[0].id, tasks[17].id] == ["synth-train-000000", "synth-train-000017"]


def test_the_mix_of_types_repeats_exactly(tasks):
    assert [task.type for task in tasks] == list(MIX) * 30
    assert Counter(MIX) == {"bridge": 7, "comparison": 4, "compositional": 4, "bridge_comparison": 3, "inference": 2}


def test_hops_run_from_two_to_four_and_count_the_links_of_the_chain(tasks):
    assert {task.metadata["hops"] for task in tasks} == {2, 3, 4}
    assert all(task.metadata["hops"] == len(task.evidences) == len(task.gold_titles) for task in tasks)


def test_every_evidence_is_stated_in_the_sentence_that_supports_it(tasks, sentences):
    for task in tasks:
        for fact, evidence in zip(task.supporting, task.evidences, strict=True):
            assert evidence.subject == fact.title
            assert evidence.object in sentences[fact.title][fact.sentence]


def test_each_hop_of_a_chain_is_named_by_the_passage_before_it(tasks):
    for task in tasks:
        if task.type in CHAINS:
            for link, following in itertools.pairwise(task.evidences):
                assert link.object == following.subject


def test_a_chain_question_names_its_first_entity_and_no_other(tasks):
    for task in tasks:
        if task.type in CHAINS:
            first, *others = (title.partition(" (")[0] for title in task.gold_titles)
            assert first in task.question.text
            assert not any(other in task.question.text for other in others if other not in first)


def test_later_passages_of_a_chain_do_not_mention_its_first_entity(tasks, sentences):
    for task in tasks:
        if task.type in {"bridge", "compositional"}:
            first, *others = task.gold_titles
            assert not any(first in text for title in others for text in sentences[title])


def test_the_answer_of_a_chain_is_in_its_last_passage_but_not_in_the_question(tasks, sentences):
    for task in tasks:
        if task.type in CHAINS:
            assert task.answers[0] in " ".join(sentences[task.gold_titles[-1]])
            assert task.answers[0] not in task.question.text


def test_the_winner_of_a_comparison_is_one_of_the_two_that_the_question_names(tasks):
    comparisons = [task for task in tasks if "comparison" in task.type]
    for task in comparisons:
        if task.answers not in (("yes",), ("no",)):
            half = len(task.gold_titles) // 2
            titles = {task.gold_titles[0], task.gold_titles[half]}
            assert len(titles & set(task.answers)) == 1
            assert task.evidences[half - 1].object != task.evidences[-1].object


def test_yes_and_no_answers_agree_with_the_evidence_and_both_are_common(tasks):
    answers = Counter()
    for task in tasks:
        if task.answers in (("yes",), ("no",)):
            same = task.evidences[len(task.evidences) // 2 - 1].object == task.evidences[-1].object
            assert task.answers == (("yes",) if same else ("no",))
            answers[same] += 1
    assert min(answers.values()) > 20


def test_the_elder_person_is_the_one_born_in_the_earlier_year(tasks):
    best = {"Who was born first": min, "Who is older": min, "Who was born later": max, "Who is younger": max}
    comparisons = [(task, best[start]) for task in tasks for start in best if task.question.text.startswith(start)]
    for task, choose in comparisons:
        years = {evidence.subject: int(evidence.object.replace(",", "").split()[-1]) for evidence in task.evidences}
        assert choose(years, key=years.__getitem__) in task.answers
    assert comparisons


@pytest.mark.slow
def test_train_dev_and_test_share_no_question_and_none_with_any_other_stream():
    world = SynthWorld(200)
    contents = [
        {_content(task) for task in itertools.islice(generate_tasks(world, stream), 200)}
        for stream in ("train", "dev", "test", "other")
    ]

    assert all(not one & other for one, other in itertools.combinations(contents, 2))


def _content(task):
    """What a question is about, whatever its wording."""
    relations = tuple(evidence.relation for evidence in task.evidences)
    if task.type in CHAINS:
        return task.gold_titles[0], relations
    return frozenset(task.gold_titles), frozenset(relations)


def test_no_question_of_the_first_600_occurs_twice(tasks):
    assert len({task.question.text for task in tasks}) == len(tasks)


def test_a_date_may_be_answered_in_both_orders_and_a_number_without_its_comma(world):
    assert answers_for(world, Literal("March 4, 1871", (1871, 2, 4))) == ("March 4, 1871", "4 March 1871")
    assert answers_for(world, Literal("4 March 1871", (1871, 2, 4)), "year") == ("1871",)
    assert answers_for(world, Literal("12,400", 12400)) == ("12,400", "12400")


def test_every_relation_of_the_world_can_be_asked_about():
    for kind, rules in RULES.items():
        relations = {rule.name: rule for rule in rules if rule.name != "peer"}
        assert set(RELATIONS[kind]) == set(relations)
        for name, relation in RELATIONS[kind].items():
            assert relation.asks
            assert relation.ends
            assert bool(relation.nouns and relation.clauses and relation.links) == bool(relations[name].target)
