"""The teacher: its searches and answers, what it proposes beside them, and where it is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env import policies
from raggym_env.build import load_mdp, make_process_reward
from raggym_env.core import Answer, Fact, Passage, Question, Search, State, StopReason, Task, Turn
from raggym_env.envs.candidates import Candidates
from raggym_env.errors import OptionError, PolicyError
from raggym_env.evaluation import evaluate
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.mdp.rollout import rollout
from raggym_env.policies.gold import GoldPolicy
from raggym_env.protocols import Hit
from raggym_env.training import Collection, collect
from towns import write_towns

QUESTION = "Who scored the film Deep Ferry?"
FERRY = Passage("1", "Deep Ferry (film)", "Deep Ferry is a film with music by Ola Brandt.")
BRANDT = Passage("2", "Ola Brandt (composer)", "Ola Brandt was born in Ostby.")
HARBOR = Passage("3", "Harbor of Ost", "The harbor of Ost is old.")
TASK = Task(Question("q", QUESTION), ("Ola Brandt",), supporting=(Fact(FERRY.title, 0), Fact(BRANDT.title, 0)))


def after(*turns: tuple[str, list[Passage]], left: int = 1, question: Question = TASK.question) -> State:
    return State(question, tuple(Turn(query, tuple(passages)) for query, passages in turns), left)


def action(state: State, task: Task = TASK, **options: str) -> object:
    ((proposal,),) = GoldPolicy([task], **options).propose([state])
    return proposal.action


def test_it_searches_for_the_question_first() -> None:
    assert action(after(left=3)) == Search(QUESTION)


def test_it_then_searches_for_a_missing_title_in_the_form_that_stands_in_what_it_has_seen() -> None:
    assert action(after((QUESTION, [FERRY]))) == Search("Ola Brandt")
    spelled = Passage("4", "Scores", "See OLA  BRANDT (composer).")
    assert action(after((QUESTION, [FERRY, spelled]))) == Search("Ola Brandt (composer)")
    assert action(after((QUESTION, [HARBOR]))) == Search("Deep Ferry")  # it stands in the question


def test_a_title_counts_as_seen_only_as_whole_words() -> None:
    task = Task(Question("q", "Which art?"), ("x",), supporting=(Fact("Art (film)"), Fact("Star")))
    assert action(after(("Which art?", [Passage("1", "Harbor", "A start.")]), question=task.question), task) == Search(
        "Art"
    )
    state = after(("Which art?", []), ("Art", []), question=task.question)
    assert action(state, task, reach="visible") is None


def test_reach_decides_on_titles_that_stand_nowhere() -> None:
    state = after((QUESTION, [HARBOR]), ("Deep Ferry", [HARBOR]))
    assert action(state) == Search("Deep Ferry (film)")
    assert action(state, reach="visible") is None


def test_it_answers_once_it_has_all_gold_passages_and_gives_an_option_as_the_metric_reads_it() -> None:
    state = after((QUESTION, [FERRY, BRANDT]))
    assert action(state) == Answer("Ola Brandt")
    question = Question("q", QUESTION, ("Ola Brandt", "B"))
    options = Task(question, ("B",), 1, TASK.supporting)
    assert action(after((QUESTION, [FERRY, BRANDT]), question=question), options) == Answer("B")
    options = Task(question, ("Ola Brandt",), 0, TASK.supporting)
    assert action(after((QUESTION, [FERRY, BRANDT]), left=0, question=question), options) == Answer("Ola Brandt")


def test_without_all_gold_passages_it_stops_or_answers_with_what_stands_in_a_passage() -> None:
    state = after((QUESTION, [FERRY]), left=0)
    assert action(state) is None
    assert action(state, incomplete="visible") == Answer("Ola Brandt")
    assert action(after((QUESTION, [HARBOR]), left=0), incomplete="visible") is None
    yes = Task(TASK.question, ("no",), supporting=TASK.supporting)
    text = Passage("5", "Ost", "There is no harbor.")
    assert action(after((QUESTION, [text]), left=0), yes, incomplete="visible") is None


class Repeats:
    """Finds the passages of a fixed list whatever is searched for."""

    def __init__(self, *passages: Passage) -> None:
        self.passages = passages

    def search(self, queries, k):
        return [[Hit(passage, 1.0) for passage in self.passages] for _ in queries]


def test_an_episode_in_which_it_stops_has_no_answer_and_is_no_failure() -> None:
    (episode,) = rollout(GoldPolicy([TASK]), [TASK], Dynamics(Repeats(HARBOR), 5, 8))
    queries = [step.action.query for step in episode.steps]
    assert queries == [QUESTION, "Deep Ferry", "Deep Ferry (film)", "Ola Brandt (composer)"]  # none twice
    assert (episode.answer, episode.stop, episode.error) == (None, StopReason.NO_ACTION, None)


@given(
    n=st.integers(2, 12), history=st.lists(st.sampled_from([FERRY, BRANDT, HARBOR]), max_size=3), left=st.integers(0, 3)
)
def test_its_own_action_comes_first_and_the_others_are_distinct_possible_actions(n, history, left) -> None:
    state = after((QUESTION, history), left=left)
    policy = GoldPolicy([TASK])
    ((own,), row) = policy.propose([state])[0], policy.propose([state], n)[0]
    assert row[0].action == own.action
    actions = [proposal.action for proposal in row]
    assert len(set(actions)) == len(actions) <= n
    assert own.action is None or any(isinstance(other, Answer) for other in actions)
    if left == 0:
        assert not any(isinstance(other, Search) for other in actions)
    assert all(other.draft is None for other in actions if isinstance(other, Search))


def test_what_it_proposes_beside_its_own_action_is_what_a_reader_might_do() -> None:
    ((*row,),) = GoldPolicy([TASK]).propose([after((QUESTION, [FERRY]))], 4)
    assert [proposal.action for proposal in row][:1] == [Search("Ola Brandt")]
    assert isinstance(row[1].action, Answer)
    assert [proposal.action for proposal in row][2:] == [Search(QUESTION), Search(FERRY.title)]


def test_a_state_without_an_id_is_matched_by_its_text() -> None:
    same = Task(Question("q2", QUESTION), ("x",), supporting=TASK.supporting)
    state = after(question=Question("", QUESTION))
    assert GoldPolicy([TASK]).act(state) == Search(QUESTION)
    for tasks in ([TASK, same], [Task(Question("q", "Other?"), ("x",), supporting=TASK.supporting)]):
        with pytest.raises(PolicyError, match=r"(2|no) tasks with the question"):
            GoldPolicy(tasks).act(state)


def test_questions_without_supporting_facts_and_wrong_options_are_refused() -> None:
    with pytest.raises(PolicyError, match="1 of 2 questions name none"):
        GoldPolicy([TASK, Task(Question("x", "?"), ("y",))])
    for option in ("reach", "incomplete"):
        with pytest.raises(OptionError, match=f"{option} must be one of"):
            GoldPolicy([TASK], **{option: "all"})


# -- every door is closed on splits that are not for training ----------------------------------------------------------


DOORS = {
    "make": lambda card, split, out: policies.make("gold", tasks=load_mdp(card, split).tasks, split=split),
    "class": lambda card, split, out: policies.make(GoldPolicy, tasks=load_mdp(card, split).tasks, split=split),
    "best of": lambda card, split, out: policies.make(
        "gold", tasks=load_mdp(card, split).tasks, split=split, best_of=2, critic="random"
    ),
    "eval": lambda card, split, out: evaluate(card, "gold", split=split, out=out),
    "module:Class": lambda card, split, out: evaluate(
        card, "random", split=split, out=out, settings={"policy.policy": "raggym_env.policies.gold:GoldPolicy"}
    ),
    "tree": lambda card, split, out: evaluate(
        card,
        "gold",
        split=split,
        out=out,
        settings={"policy.search.tree": {"width": 2, "depth": 1, "n": 2}, "policy.search.critic": "random"},
    ),
    "candidates": lambda card, split, out: Candidates(
        policies.make("gold", tasks=load_mdp(card, split).tasks, split=split)
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_it_is_refused_on_every_split_that_is_not_for_training(door, tmp_path) -> None:
    card = write_towns(tmp_path / "towns")
    with pytest.raises(PolicyError, match="for splits named train"):
        DOORS[door](card, "test", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()  # before anything is written
    DOORS[door](card, "train", tmp_path / "run")


def test_a_rollout_completes_episodes_with_it_on_training_splits_only(tmp_path) -> None:
    mdp = load_mdp(write_towns(tmp_path / "towns"), "train")
    context = (mdp.dataset, mdp.dynamics)
    reward = make_process_reward("rollout", *context, {"policy": "gold", "m": 1, "explore": 0.0})
    state = mdp.dynamics.start(mdp.tasks[0].question)
    assert reward.score([state], [[Answer("nowhere")]])[0].tolist() == [-1.0]  # the teacher would be right
    with pytest.raises(OptionError, match="policy_options"):
        make_process_reward("rollout", *context, {"policy": "gold", "policy_options": {"split": "train"}})


def test_without_tasks_it_says_what_it_needs(tmp_path) -> None:
    with pytest.raises(PolicyError, match="for splits named train"):
        policies.make("gold")
    with pytest.raises(PolicyError, match="needs the tasks of an environment"):
        policies.make("gold", split="train")
    card = tmp_path / "mine.toml"
    card.write_text('policy = "gold"\n[options]\ntasks = []\n')
    with pytest.raises(OptionError, match="the tasks are those of the environment"):
        policies.make(card, tasks=[TASK], split="train")


def test_it_gives_scored_candidates_to_learn_preferences_from(tmp_path) -> None:
    # By default a search is worth as much as the right answer once all evidence is there.
    settings = {"reward.process_reward": "none", "policy.search.critic_options": {"expected_score": [0.2, 0.9]}}
    options = {"critic": "evidence_value", "n": 4, "settings": settings}
    data = collect(write_towns(tmp_path / "towns"), "gold", out=tmp_path / "data", **options)
    trajectories = list(Collection.read(data.run.path).trajectories())
    assert len(trajectories) == 12
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    assert all(step.action == step.candidates[0].action for step in steps)
    assert all(step.candidates[0].score > step.candidates[-1].score for step in steps)
