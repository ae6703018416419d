import itertools
import json
from dataclasses import replace

import pytest

from raggym_env.core import Answer, Search, Usage
from raggym_env.errors import LLMError, OptionError, PolicyError, RewardError
from raggym_env.mdp.records import Episode
from raggym_env.mdp.rollout import complete, rollout
from raggym_env.mdp.step_reward import StepReward
from raggym_env.policies.best_of import BestOf
from raggym_env.policies.lexical import LexicalPolicy
from raggym_env.protocols import BasePolicy, Proposal
from raggym_env.rewards.random import RandomReward
from worlds import BOTH, FILM, PILL, dynamics


class Follow(BasePolicy):
    """Takes the actions of a table by question id, one after the other."""

    def __init__(self, script):
        self.script = script
        self.batches = []

    def propose(self, states, n=1):
        self.batches.append([state.question.id for state in states])
        actions = [self.script[state.question.id][len(state.history)] for state in states]
        return [[a if isinstance(a, Proposal) else Proposal(a, score=0.5)] for a in actions]


GOOD = {"film": [Search("Dawn"), Search("Ada Berg"), Answer("Oslo")], "both": [Answer("no")]}


def by_id(episodes):
    return {episode.id: episode for episode in episodes}


def test_an_episode_records_its_steps_rewards_and_answer():
    steps, _ = dynamics()
    (episode,) = rollout(Follow(GOOD), [FILM], steps)
    assert [step.action for step in episode.steps] == GOOD["film"]
    assert [step.outcome for step in episode.steps] == [0.0, 0.0, 1.0]
    assert [passage.title for passage in episode.steps[0].passages] == ["Dawn", "Dawn (song)"]
    assert (episode.answer, episode.stop, episode.error, episode.steps[0].score) == ("Oslo", "answer", None, 0.5)


def test_episodes_are_batched_and_the_places_of_ended_ones_are_filled():
    steps, _ = dynamics()
    policy = Follow(GOOD)
    list(rollout(policy, [BOTH, FILM, BOTH, BOTH], steps, in_flight=2))
    assert policy.batches == [["both", "film"], ["film", "both"], ["film", "both"]]


def test_the_result_does_not_depend_on_the_batch_size():
    steps, _ = dynamics()
    tasks = [FILM, BOTH]
    results = [
        {i: (e.steps, e.answer) for i, e in by_id(rollout(Follow(GOOD), tasks, steps, in_flight=n)).items()}
        for n in (1, 2, 32)
    ]
    assert results[0] == results[1] == results[2]


def test_endless_tasks_are_read_lazily():
    steps, _ = dynamics()
    episodes = rollout(Follow(GOOD), itertools.cycle([BOTH]), steps, in_flight=3)
    assert len(list(itertools.islice(episodes, 10))) == 10


def test_a_failed_search_fails_its_own_episode_only_and_is_not_scored_as_zero():
    steps, _ = dynamics(fails=["Ada Berg"])
    long = {**GOOD, "both": [Search("Dawn"), Search("Dusk"), Answer("yes")]}
    episodes = by_id(rollout(Follow(long), [FILM, BOTH], steps))
    assert episodes["film"].error.startswith("RetrievalError")
    assert (episodes["film"].stop, episodes["film"].answer) == (None, None)
    assert (episodes["both"].error, episodes["both"].answer) == (None, "yes")


@pytest.mark.parametrize(
    ("proposal", "output"),
    [
        (Proposal(None, text="blah", failure="not JSON", usage=Usage(calls=2)), "blah"),
        (Proposal(Search("  "), usage=Usage(calls=2)), "Not an action: Search(query='  ', draft=None)."),
    ],
)
def test_an_output_that_is_not_an_action_ends_the_episode_without_an_answer_and_is_recorded(proposal, output):
    steps, _ = dynamics()
    policy = Follow({**GOOD, "film": [proposal]})
    episodes = by_id(rollout(policy, [FILM, BOTH], steps))
    film = episodes["film"]
    assert (film.stop, film.answer, film.error, film.steps) == ("no_action", None, None, ())
    assert film.output.startswith(output)
    assert film.usage.calls == 2
    assert episodes["both"].answer == "no"
    assert len(policy.batches) == 1  # the policy was not called again for the others


def test_an_outage_fails_its_own_episode_with_the_reason():
    steps, _ = dynamics()
    policy = Follow({**GOOD, "film": [Proposal(None, failure="the server is down", outage=True)]})
    episodes = by_id(rollout(policy, [FILM, BOTH], steps))
    assert "the server is down" in episodes["film"].error
    assert (episodes["film"].stop, episodes["both"].error) == (None, None)


def test_a_failed_search_does_not_make_the_policy_propose_again():
    steps, _ = dynamics(fails=["Ada Berg"])
    policy = Follow({**GOOD, "both": [Search("Dawn"), Search("Dusk"), Answer("yes")]})
    list(rollout(policy, [FILM, BOTH], steps))
    assert policy.batches == [["film", "both"], ["film", "both"], ["both"]]


def test_a_model_that_cannot_be_used_at_all_stops_the_rollout():
    class Keyless(BasePolicy):
        def propose(self, states, n=1):
            raise LLMError("no key")

    with pytest.raises(LLMError, match="no key"):
        list(rollout(Keyless(), [FILM], dynamics()[0]))


def test_a_policy_that_loses_a_state_is_an_error_of_the_policy():
    class Lossy(BasePolicy):
        def propose(self, states, n=1):
            return []

    steps, _ = dynamics()
    (episode,) = rollout(Lossy(), [FILM], steps)
    assert episode.error.startswith("PolicyError: Lossy.propose must return ")
    assert "for 1 states" in episode.error


def test_a_bug_is_raised_not_recorded():
    class Broken(BasePolicy):
        def propose(self, states, n=1):
            raise ZeroDivisionError

    steps, _ = dynamics()
    with pytest.raises(ZeroDivisionError):
        list(rollout(Broken(), [FILM], steps))


def test_process_rewards_are_recorded_beside_outcomes():
    steps, _ = dynamics()
    (episode,) = rollout(Follow(GOOD), [FILM], steps, StepReward("f1", RandomReward(3)))
    assert all(0 < step.process_reward < 1 for step in episode.steps)


class Picky:
    """A process reward that fails for one question, and with it for its whole batch."""

    def score(self, states, actions):
        if any(state.question.id == "film" for state in states):
            raise RewardError("no score")
        return [[0.25 for _ in row] for row in actions]


def test_a_failed_process_reward_fails_its_own_episode_only():
    steps, _ = dynamics()
    policy = Follow(GOOD)
    episodes = by_id(rollout(policy, [FILM, BOTH], steps, StepReward("em", Picky())))
    assert (episodes["film"].error, episodes["film"].steps) == ("RewardError: no score", ())
    assert (episodes["both"].answer, episodes["both"].steps[0].process_reward) == ("no", 0.25)
    assert policy.batches == [["film", "both"]]


class Selective(Follow):
    """A policy that fails for one question, and with it for its whole batch."""

    def propose(self, states, n=1):
        if any(state.question.id == "film" for state in states):
            raise PolicyError("no idea")
        return super().propose(states, n)


def test_a_policy_that_fails_for_one_state_is_called_for_the_others_alone():
    steps, _ = dynamics()
    policy = Selective(GOOD)
    episodes = by_id(rollout(policy, [FILM, BOTH], steps))
    assert episodes["film"].error == "PolicyError: no idea"
    assert (episodes["both"].error, episodes["both"].answer) == (None, "no")
    assert policy.batches == [["both"]]


def test_episodes_are_completed_from_given_states_in_their_order():
    steps, _ = dynamics()
    start = steps.start(FILM.question)
    (searched,) = steps.transition([start], [Search("Dawn")])
    (ended,) = steps.transition([start], [Answer("Rome")])
    episodes = complete(Follow(GOOD), [FILM] * 3, [searched, ended, start], steps)
    assert [episode.answer for episode in episodes] == ["Oslo", "Rome", "Oslo"]
    assert [len(episode.steps) for episode in episodes] == [2, 0, 3]


@pytest.mark.parametrize("full", [False, True])
def test_the_record_of_every_episode_is_read_back_as_it_was_written(full):
    steps, _ = dynamics(fails=["Ada Berg"])
    tasks = [FILM, BOTH, PILL]
    script = {**GOOD, "pill": [Proposal(None, text="blah", failure="not JSON")]}
    best_of = BestOf(LexicalPolicy(), RandomReward(0), n=4)
    for policy in (Follow(script), best_of):
        for episode in rollout(policy, tasks, steps, StepReward("f1", RandomReward(3))):
            record = json.loads(json.dumps(episode.to_json(full=full), allow_nan=False))
            assert Episode.from_json(record).to_json(full=full) == record


def test_in_flight_must_be_positive():
    with pytest.raises(OptionError, match="in_flight must be at least 1, got 0"):
        list(rollout(Follow(GOOD), [FILM], dynamics()[0], in_flight=0))


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("draft", ["Oslo", None])
def test_an_output_that_is_no_action_ends_with_the_last_draft_if_it_is_to_count(counts, draft):
    unread = Proposal(None, text="Hm.", failure="no_action: nothing to read")
    steps = replace(dynamics()[0], answer_with_last_draft=counts)
    (episode,) = rollout(Follow({"film": [Search("Dawn", draft), unread]}), [FILM], steps)
    assert (episode.output, episode.failure) == ("Hm.", "no_action: nothing to read"), "the output is on record"
    if counts and draft:
        assert (episode.answer, episode.stop, episode.outcome) == ("Oslo", "answer", 1.0)
        assert (episode.steps[-1].action, episode.steps[-1].text) == (Answer("Oslo"), "Hm.")
    else:
        assert (episode.answer, episode.stop, episode.outcome) == (None, "no_action", 0.0)
    assert Episode.from_json(episode.to_json(full=True)).answer == episode.answer


def test_an_outage_is_a_failure_whatever_was_drafted():
    outage = Proposal(None, failure="the server is down", outage=True)
    steps = replace(dynamics()[0], answer_with_last_draft=True)
    (episode,) = rollout(Follow({"film": [Search("Dawn", "Oslo"), outage]}), [FILM], steps)
    assert (episode.answer, episode.stop) == (None, None)
    assert "the server is down" in episode.error
