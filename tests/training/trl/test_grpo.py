import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.cards import policy_card  # noqa: E402
from raggym_env.core import Answer, Passage, Question, Search, State, Turn  # noqa: E402
from raggym_env.errors import OptionError, RewardError  # noqa: E402
from raggym_env.evaluation import evaluate  # noqa: E402
from raggym_env.training import train_grpo, train_sft  # noqa: E402
from raggym_env.training.trl.grpo import ReplyConfig, StepRewardConfig, StepRewards  # noqa: E402
from raggym_env.training.trl.recipe import Recipe  # noqa: E402
from trained import same, weights, write_workshop  # noqa: E402

pytestmark = pytest.mark.slow

STATES = [
    State(Question("a", "On which river does Town0 lie?"), (), 1),
    State(Question("b", "On which river does Town1 lie?"), (Turn("Town1", (Passage("1", "Town1", "..."),)),), 0),
]


class Critic:
    """A search scores 0.5, an answer its number of letters; fails on the questions in `fails`."""

    def __init__(self, fails=(), nan=False):
        self.fails, self.nan = fails, nan
        self.calls = 0

    def score(self, states, actions):
        self.calls += 1
        if any(state.question.id in self.fails for state in states):
            raise RewardError("the critic is down")
        rows = [[0.5 if isinstance(each, Search) else float(len(each.text)) for each in row] for row in actions]
        return [np.array(row, np.float32) * (np.nan if self.nan else 1) for row in rows]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """With an actor that sometimes writes an action, as GRPO learns nothing from one that never does."""
    shop = write_workshop(tmp_path_factory.mktemp("shop"), questions=2)
    config = shop.config(lora_rank=0, max_steps=12, per_device_train_batch_size=4)
    train_sft(shop.data, shop.data.parent / "actor", agent=shop.agent, config=config)
    return shop


def rewarded(shop, replies, index, critic=None, card=None, **options):
    reward = StepRewards(card or policy_card(shop.agent), STATES, critic or Critic(), **options)
    return reward([[{"role": "assistant", "content": reply}] for reply in replies], index)


def test_a_reply_earns_the_score_of_its_action_in_its_own_state(shop):
    critic = Critic()
    replies = ['{"search": "Town0"}', 'I know.\n{"answer": "Po"}', '{"answer": "Rhine"}', '{"answer": "Elbe"}']
    assert rewarded(shop, replies, [0, 1, 0, 1], critic) == [0.5, 2.0, 5.0, 4.0]
    assert critic.calls == 1


def test_a_reply_that_is_no_action_earns_less_than_the_worst_of_its_state(shop):
    replies = ["Hm.", '{"answer": "Po"}', '{"search": "Town0"}', '{"answer": "Elbe"}']
    assert rewarded(shop, replies, [0, 0, 0, 1], penalty=0.25) == [0.25, 2.0, 0.5, 4.0]
    assert rewarded(shop, ["Hm.", "Well."], [0, 0]) == [-1.0, -1.0]


def test_a_search_that_this_agent_may_not_make_is_no_action(shop):
    # No search is left in the second state.
    assert rewarded(shop, ['{"search": "x"}', '{"answer": "Po"}'], [1, 1]) == [1.0, 2.0]
    with_draft = '{"search": "x", "draft": "Po"}'
    reflects = policy_card(shop.agent)
    reflects = reflects.model_copy(update={"options": {**reflects.options, "reflection": True}})
    assert rewarded(shop, ['{"search": "x"}', with_draft], [0, 0], card=reflects) == [-0.5, 0.5]


def test_a_failing_critic_gives_no_reward_and_leaves_the_other_states_alone(shop):
    replies = ['{"answer": "Po"}', "Hm.", '{"answer": "Elbe"}']
    assert rewarded(shop, replies, [0, 0, 1], Critic(fails="a")) == [None, None, 4.0]
    with pytest.raises(RewardError, match="the critic is down"):
        rewarded(shop, replies, [0, 0, 1], Critic(fails="ab"))
    with pytest.raises(RewardError, match="must return finite scores"):
        rewarded(shop, replies, [0, 0, 1], Critic(nan=True))


def test_an_answers_outcome_can_be_added(shop):
    outcome = lambda index, answer: 10.0 * (index == 0 and answer == Answer("Po"))  # noqa: E731
    replies = ['{"answer": "Po"}', '{"answer": "Elbe"}', '{"search": "Po"}']
    assert rewarded(shop, replies, [0, 0, 0], outcome=outcome) == [12.0, 4.0, 0.5]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_model_learns_from_its_own_replies_and_is_evaluated(shop, tmp_path, algorithm):
    recipe = train_grpo(
        shop.data,
        tmp_path / "out",
        agent=shop.agent,
        config=shop.config(shop.data.parent / "actor", max_steps=3, per_device_train_batch_size=8),
        reward=StepRewardConfig("evidence"),
        replies=ReplyConfig(max_completion_length=40),
        algorithm=algorithm,
    )
    assert recipe.config["kind"] == algorithm
    assert any(entry["grad_norm"] > 0 for entry in recipe.report["log"])
    assert any(entry["replies/unreadable"] < 1 for entry in recipe.report["log"])
    assert any((tensor != 0).any() for name, tensor in weights(tmp_path / "out").items() if "lora_B" in name)
    settings = {"policy.options.llm": f"hf:{recipe.report['result']}"}
    _, scores = evaluate(shop.card, shop.agent, limit=1, settings=settings, out=tmp_path / "run")
    assert scores.scored == 1


def test_an_interrupted_training_resumes_with_the_same_rewards(shop, tmp_path):
    def killed(stage, done, total, info):
        if done == 2:
            raise KeyboardInterrupt

    actor = shop.data.parent / "actor"
    options = {
        "agent": shop.agent,
        "config": shop.config(actor, max_steps=3, per_device_train_batch_size=4, save_steps=1),
        "reward": StepRewardConfig("evidence"),
        "replies": ReplyConfig(max_completion_length=24),
    }
    whole = train_grpo(shop.data, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train_grpo(shop.data, tmp_path / "cut", **options, progress=killed)
    recipe = train_grpo(shop.data, tmp_path / "cut", **options)
    rewards = [[entry["reward"] for entry in each.report["log"]] for each in (recipe, whole)]
    assert rewards[0] == rewards[1]
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_an_environment_provides_the_first_states_of_its_questions(shop, tmp_path):
    recipe = train_grpo(
        shop.card,
        tmp_path,
        agent=shop.agent,
        config=shop.config(per_device_train_batch_size=4, max_steps=1),
        reward=StepRewardConfig("random"),
        replies=ReplyConfig(max_completion_length=8),
    )
    assert recipe.report["rows"]["used"] == 2
    assert Recipe.read(tmp_path).config["data"]["dataset"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"algorithm": "ppo"}, ValueError, "algorithm must be one of"),
        ({"replies": ReplyConfig(3)}, OptionError, r"multiple of num_generations = 3, .* got 2 \* 1 = 2"),
        ({"reward": StepRewardConfig("none")}, RewardError, "no scores to learn from"),
        ({"reward": StepRewardConfig("random", {"x": 1})}, OptionError, "has no option 'x'"),
        ({"replies": ReplyConfig(2, max_completion_length=4000)}, OptionError, "room for a prompt"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_written(shop, tmp_path, options, error, message):
    options = {"reward": StepRewardConfig("evidence"), "replies": ReplyConfig(2), **options}
    with pytest.raises(error, match=message):
        train_grpo(shop.data, tmp_path / "out", agent=shop.agent, config=shop.config(), **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReplyConfig(1), "num_generations must be at least 2"),
        (lambda: ReplyConfig(max_completion_length=0), "max_completion_length must be at least 1"),
        (lambda: ReplyConfig(temperature=0.0), "temperature must be above 0"),
        (lambda: StepRewardConfig(penalty=0.0), "penalty must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
