"""Search at inference: best-of-n, voting and tree search, and the options that select them."""

import numpy as np
import pytest

from raggym_env import policies
from raggym_env.core import Answer, Search, Usage
from raggym_env.errors import CardError, LLMError, OptionError, RewardError
from raggym_env.mdp.rollout import rollout
from raggym_env.mdp.step_reward import StepReward
from raggym_env.policies.best_of import BestOf
from raggym_env.policies.tree import Tree
from raggym_env.policies.vote import Vote
from raggym_env.protocols import BasePolicy, Proposal, propose
from raggym_env.rewards.evidence import EvidenceReward
from raggym_env.testing import check_policy
from worlds import BOTH, FILM, dynamics


class Fixed(BasePolicy):
    """Proposes the same actions in every state, over and over, and records its calls."""

    def __init__(self, *actions):
        self.actions = actions
        self.calls = []

    def propose(self, states, n=1):
        self.calls.append((len(states), n))
        row = [self._proposal(action) for action in self.actions]
        return [[row[i % len(row)] for i in range(n)] for _ in states]

    @staticmethod
    def _proposal(action):
        failure = "unreadable" if action is None else None
        return Proposal(action, text="raw", usage=Usage(calls=1, completion_tokens=10), failure=failure)


class Longest:
    """Scores an action by the length of its text, and records the sizes of its batches."""

    def __init__(self):
        self.batches = []

    def score(self, states, actions):
        self.batches.append([len(row) for row in actions])
        return [
            np.array([len(getattr(a, "query", getattr(a, "text", ""))) for a in row], np.float32) for row in actions
        ]


def start(*tasks, searches=3):
    steps, retriever = dynamics(max_searches=searches)
    return steps, retriever, [steps.start(task.question) for task in tasks]


def test_best_of_takes_the_candidate_with_the_highest_score_and_records_all():
    _, _, states = start(FILM, BOTH)
    critic = Longest()
    chosen = BestOf(Fixed(Search("a"), Search("long"), Answer("mid")), critic, n=6).propose(states)
    assert [row[0].action for row in chosen] == [Search("long")] * 2
    candidates = [(c.action, c.score) for c in chosen[0][0].candidates]
    assert candidates == [(Search("long"), 4.0), (Answer("mid"), 3.0), (Search("a"), 1.0)]
    assert critic.batches == [[3, 3]]  # one call, equal candidates scored once
    assert chosen[0][0].usage == Usage(calls=6, completion_tokens=60)


def test_between_equal_scores_the_policys_earlier_candidate_wins():
    _, _, states = start(FILM)
    assert BestOf(Fixed(Search("b"), Search("a")), Longest(), n=2).propose(states)[0][0].action == Search("b")


def test_unreadable_candidates_are_not_scored_and_if_all_are_the_state_fails():
    _, _, states = start(FILM)
    assert BestOf(Fixed(None, Answer("x")), Longest(), n=4).propose(states)[0][0].action == Answer("x")
    (row,) = BestOf(Fixed(None), Longest(), n=4).propose(states)
    assert (row[0].failure, row[0].usage.calls) == ("unreadable", 4)


def test_several_proposals_count_their_usage_once():
    _, _, states = start(FILM)
    (row,) = BestOf(Fixed(Search("a"), Search("bb")), Longest(), n=4).propose(states, 2)
    assert [proposal.usage.calls for proposal in row] == [4, 0]


def test_the_largest_group_of_equal_answers_wins_the_vote():
    _, _, states = start(FILM)
    policy = Fixed(Answer("Rome"), Search("q", draft="the Oslo."), Answer("Oslo"), Search("r"))
    (row,) = Vote(policy, n=4).propose(states, 4)
    assert (row[0].action, row[0].score) == (Search("q", draft="the Oslo."), 0.5)
    assert [proposal.action for proposal in row[1:]] == [Answer("Rome"), Search("r")]
    assert row[0].usage.calls == 4


def test_several_groups_of_a_vote_count_their_usage_once():
    _, _, states = start(FILM)
    (row,) = Vote(Fixed(Answer("a"), Answer("b")), n=4).propose(states, 2)
    assert [proposal.usage.calls for proposal in row] == [4, 0]


def test_unreadable_samples_have_no_vote():
    _, _, states = start(FILM)
    assert Vote(Fixed(None, None, Answer("x")), n=3).propose(states)[0][0].score == 1.0
    assert Vote(Fixed(None), n=3).propose(states)[0][0].failure == "unreadable"


@pytest.mark.parametrize("width", [1, 3])
def test_a_tree_sees_a_reward_two_steps_ahead_and_searches_a_level_at_once(width):
    steps, retriever, states = start(FILM, BOTH)
    critic = EvidenceReward([FILM, BOTH], steps)
    policy = Fixed(Search("nothing"), Search("Dawn"), Search("Ada Berg"), Answer("x"))
    retriever.calls.clear()
    chosen = Tree(policy, critic, steps, width=width, depth=2, n=4).propose(states)
    assert chosen[0][0].action in (Search("Dawn"), Search("Ada Berg"))
    assert chosen[0][0].score == pytest.approx(1.0 - 2 * critic.search_cost)
    assert policy.calls == [(2, 4), (2 * width, 4)]  # all paths of all states at once
    assert len(retriever.calls) == 4  # per level one search of the critic's and one of the paths'


def test_with_all_evidence_retrieved_a_tree_answers():
    steps, _, states = start(FILM)
    for query in ("Dawn", "Ada Berg"):
        states = steps.transition(states, [Search(query)])
    policy = Fixed(Search("nothing"), Answer("Oslo"))
    tree = Tree(policy, EvidenceReward([FILM], steps), steps, width=2, depth=3, n=2)
    assert tree.propose(states)[0][0].action == Answer("Oslo")


def test_a_path_that_cannot_be_extended_keeps_its_value():
    class Once(Fixed):
        def propose(self, states, n=1):
            rows = super().propose(states, n)
            return [
                row if not state.history else [Proposal(None, failure="no idea")]
                for row, state in zip(rows, states, strict=True)
            ]

    steps, _, states = start(FILM)
    tree = Tree(Once(Search("nothing"), Search("Dawn")), EvidenceReward([FILM], steps), steps, depth=3, n=2)
    assert tree.propose(states)[0][0].action == Search("Dawn")


def test_a_state_that_the_policy_cannot_read_fails_alone():
    steps, _, states = start(FILM)
    (row,) = Tree(Fixed(None), EvidenceReward([FILM], steps), steps, n=2).propose(states)
    assert (row[0].action, row[0].failure, row[0].usage.calls) == (None, "unreadable", 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda steps: BestOf(Fixed(Search("a"), None, Answer("b")), Longest(), n=4),
        lambda steps: Vote(Fixed(Search("a"), None, Answer("b")), n=4),
        lambda steps: Tree(Fixed(Search("a"), None, Answer("b")), Longest(), steps, n=4),
    ],
)
def test_the_contract_of_a_policy_is_kept(make):
    steps, _, states = start(FILM, BOTH)
    check_policy(make(steps), states)


def test_best_of_lexical_with_the_evidence_critic_finds_more_than_lexical_alone():
    steps, _ = dynamics(max_searches=3)
    critic = EvidenceReward([FILM], steps)
    (episode,) = rollout(policies.make("lexical", best_of=4, critic=critic), [FILM], steps)
    assert episode.steps[0].candidates
    assert episode.error is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"best_of": 4}, CardError, "needs a critic that chooses: add one, such as --critic mini"),
        ({"critic": "random"}, CardError, "a critic chooses among candidates: add best_of = 8"),
        ({"vote": 4, "best_of": 4, "critic": "random"}, CardError, "choose one of"),
        ({"best_of": 4, "critic": "none"}, CardError, "cannot choose"),
        ({"best_of": 4, "critic": "evidence"}, RewardError, "needs the tasks and the dynamics"),
        ({"tree": {"width": 2}, "critic": "random"}, CardError, "needs the environment's dynamics"),
        ({"best_of": 0, "critic": "random"}, CardError, "search.best_of"),
        ({"critic": Longest()}, CardError, "a critic chooses among candidates: add best_of = 8"),
    ],
)
def test_impossible_combinations_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        policies.make("lexical", **options)


def test_the_three_searches_are_selected_by_options():
    steps, _ = dynamics()
    assert policies.make("lexical", best_of=4, critic="random").n == 4
    assert policies.make("lexical", vote=5).n == 5
    tree = policies.make("lexical", tree={"width": 2, "depth": 1}, critic="random", dynamics=steps)
    assert (tree.width, tree.depth) == (2, 1)


@pytest.mark.parametrize("build", [lambda: BestOf(Fixed(), Longest(), n=0), lambda: Vote(Fixed(), n=0)])
def test_at_least_one_sample(build):
    with pytest.raises(OptionError, match="n must be at least 1, got 0"):
        build()


class Failing(Longest):
    """Fails whenever the question is FILM's, and with it its whole batch."""

    def score(self, states, actions):
        if any(state.question.id == "film" for state in states):
            raise RewardError("no score for films")
        return super().score(states, actions)


class NotANumber(Longest):
    """Scores one candidate of every state with something that is no number."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def score(self, states, actions):
        return [np.array([self.value, *[0.5] * (len(row) - 1)], np.float32) for row in actions]


@pytest.mark.parametrize("search", [BestOf, lambda policy, critic, n: Tree(policy, critic, dynamics()[0], n=n)])
def test_a_critic_that_fails_for_one_state_costs_no_other_its_candidates(search):
    _, _, states = start(FILM, BOTH)
    policy = Fixed(Search("a"), Answer("long"))
    (film,), (both, *_) = search(policy, Failing(), n=4).propose(states)
    assert (film.action, film.outage, "no score for films" in film.failure) == (None, True, True)
    assert film.usage.calls >= 4
    assert both.action is not None
    assert policy.calls[0] == (2, 4)


@pytest.mark.parametrize("search", [BestOf, lambda policy, critic, n: Tree(policy, critic, dynamics()[0], n=n)])
def test_a_critic_whose_model_cannot_be_used_at_all_stops_the_search(search):
    class NoModel(Longest):
        def score(self, states, actions):
            raise LLMError("no such model")

    _, _, states = start(FILM, BOTH)
    with pytest.raises(LLMError, match="no such model"):
        search(Fixed(Search("a")), NoModel(), n=2).propose(states)


@pytest.mark.parametrize(
    "search",
    [
        lambda policy: BestOf(policy, Longest(), n=2),
        lambda policy: Vote(policy, n=2),
        lambda policy: Tree(policy, Longest(), dynamics()[0], n=2),
    ],
)
def test_a_policy_that_proposes_nothing_is_a_failure_of_that_state(search):
    class Silent(BasePolicy):
        def propose(self, states, n=1):
            return [[] for _ in states]

    _, _, states = start(FILM, BOTH)
    rows = search(Silent()).propose(states)
    assert [row[0].failure for row in rows] == ["the policy proposed nothing"] * 2


@pytest.mark.parametrize("blank", [Search(""), Answer(" \n"), Search("a", draft="")])
def test_a_blank_candidate_is_an_output_that_is_no_action_and_no_outage(blank):
    steps, _, states = start(FILM)
    for search in (
        lambda policy: BestOf(policy, Longest(), n=2),
        lambda policy: Vote(policy, n=2),
        lambda policy: Tree(policy, Longest(), steps, n=2),
        lambda policy: policy,
    ):
        (row,) = propose(search(Fixed(blank, Answer("x"))), states, 2)
        assert row[-1].action == Answer("x")
        episode = next(iter(rollout(search(Fixed(blank)), [FILM], steps)))
        assert (episode.stop, episode.error) == ("no_action", None)
        assert episode.output


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("search", [BestOf, lambda policy, critic, n: Tree(policy, critic, dynamics()[0], n=n)])
def test_a_score_that_is_not_a_number_chooses_nothing(search, value):
    _, _, states = start(FILM)
    (row,) = search(Fixed(Search("a"), Answer("b")), NotANumber(value), n=2).propose(states)
    assert (row[0].action, row[0].outage, "must return finite scores" in row[0].failure) == (None, True, True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_process_reward_that_is_not_a_number_fails_the_episode(value):
    (episode,) = rollout(Fixed(Answer("b")), [FILM], dynamics()[0], StepReward("em", NotANumber(value)))
    assert episode.error.startswith("RewardError: NotANumber.score must return finite scores")


class Reader:
    """Scores a reply by the length of its text, or returns what it is given."""

    def __init__(self, scores=None):
        self.scores = scores
        self.batches = []

    def score(self, states, actions):
        raise AssertionError("a critic that reads replies is given replies")

    def score_replies(self, states, proposals):
        self.batches.append([[proposal.text for proposal in row] for row in proposals])
        return self.scores or [[len(proposal.text) for proposal in row] for row in proposals]


class Replies(Fixed):
    """Proposes the same proposals in every state."""

    @staticmethod
    def _proposal(action):
        return action


REPLIES = [
    Proposal(Answer("x"), text="short"),
    Proposal(None, text="no action at all, and the longest", failure="unreadable"),
    Proposal(Answer("y"), text="a longer one"),
    Proposal(Answer("x"), text="the longest action"),
]


@pytest.mark.parametrize("build", [BestOf, lambda policy, critic, n: Tree(policy, critic, None, depth=1, n=n)])
def test_a_critic_that_reads_replies_scores_each_of_them_and_an_action_counts_by_its_best(build):
    steps, _, states = start(FILM)
    critic = Reader()
    policy = build(Replies(*REPLIES), critic, n=4)
    if isinstance(policy, Tree):
        policy.dynamics = steps
    ((best, *_),) = policy.propose(states)
    assert critic.batches == [[["short", "a longer one", "the longest action"]]]
    assert (best.action, best.text, best.score) == (Answer("x"), "the longest action", 18)
    assert [candidate.action for candidate in best.candidates] == [Answer("x"), Answer("y")]


@pytest.mark.parametrize("scores", [[], [[1.0]], [[1.0, 2.0, float("nan")]], "abc", [["a", "b", "c"]]])
def test_a_critic_that_reads_replies_and_returns_something_else_is_an_outage_that_shows_the_right_form(scores):
    _, _, states = start(FILM)
    ((failed,),) = BestOf(Replies(*REPLIES), Reader(scores or [[]]), n=4).propose(states)
    assert (failed.action, failed.outage) == (None, True)
    assert "Reader.score_replies must return" in failed.failure
    assert "def score_replies(self, states, proposals)" in failed.failure
