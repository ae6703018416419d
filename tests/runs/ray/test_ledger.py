import random

from raggym_env.runs.ray.ledger import DEATHS, Ledger


def test_a_worker_holds_no_more_than_its_share():
    ledger = Ledger([str(i) for i in range(100)], workers=2, share=8)
    assert [len(ledger.give(0)) for _ in range(2)] == [8, 0]
    assert ledger.ended(0, "3")
    assert ledger.give(0) == ["8"]


def test_few_questions_are_divided_among_the_workers():
    ledger = Ledger([str(i) for i in range(10)], workers=4, share=64)
    assert [len(ledger.give(worker)) for worker in range(4)] == [3, 2, 2, 1]


def test_a_question_counts_once_and_only_from_the_worker_that_has_it():
    ledger = Ledger(["a", "b"], workers=2, share=1)
    ledger.give(0), ledger.give(1)
    assert not ledger.ended(1, "a")
    assert ledger.ended(0, "a")
    assert not ledger.ended(0, "a")
    assert not ledger.over
    assert ledger.ended(1, "b")
    assert ledger.over


def test_the_questions_of_a_dead_worker_are_done_again_and_what_ended_is_not():
    ledger = Ledger(["a", "b", "c"], workers=1, share=3)
    ledger.give(0)
    ledger.ended(0, "b")
    assert ledger.lost(0) == []
    assert ledger.give(0) == ["a", "c"]


def test_what_two_workers_died_on_is_run_alone_after_the_others_and_given_up_when_a_third_dies():
    ledger = Ledger(["a", "b", "c"], workers=1, share=2)
    given = []
    for _ in range(4):
        given.append(ledger.give(0))
        lost = ledger.lost(0)
    assert given == [["a", "b"], ["c", "a"], ["b", "c"], ["a"]]
    assert lost == ["a"]
    assert ledger.give(0) == ["b"]


def played(deadly, questions=50, workers=3, share=8, seed=0):
    """Which questions ended and which were given up, and how often a worker died, where some kill their worker."""
    ledger = Ledger([str(i) for i in range(questions)], workers, share)
    rng = random.Random(seed)
    held = {worker: [] for worker in range(workers)}
    ended, given_up, deaths = [], [], 0
    while not ledger.over:
        worker = rng.randrange(workers)
        held[worker] += ledger.give(worker)
        if not held[worker]:
            continue
        question = held[worker].pop(0)
        if question in deadly:
            given_up += ledger.lost(worker)
            held[worker] = []
            deaths += 1
        else:
            assert ledger.ended(worker, question)
            ended.append(question)
    return ended, given_up, deaths


def test_questions_that_always_kill_are_given_up_and_all_others_end_exactly_once():
    for seed in range(20):
        ended, given_up, deaths = played({"3", "4", "17", "49"}, seed=seed)
        assert sorted(given_up) == ["17", "3", "4", "49"]
        assert sorted(ended) == sorted(str(i) for i in range(50) if str(i) not in given_up)
        assert deaths <= 4 * DEATHS


def test_where_every_question_kills_the_end_comes_all_the_same():
    ended, given_up, _ = played({str(i) for i in range(50)})
    assert (ended, len(given_up), len(set(given_up))) == ([], 50, 50)
