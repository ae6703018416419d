"""Credit per turn: advantages by hand, and what the gradient of TRL's loss does when one turn's reward changes."""

import inspect
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
pytest.importorskip("datasets")

from raggym_env.core import Passage, Question, State, Task, Turn  # noqa: E402
from raggym_env.envs.env import RAGEnv  # noqa: E402
from raggym_env.errors import OptionError, RewardError  # noqa: E402
from raggym_env.mdp.dynamics import Dynamics  # noqa: E402
from raggym_env.mdp.step_reward import StepReward  # noqa: E402
from raggym_env.testing import ScriptedRetriever  # noqa: E402
from raggym_env.training.trl.credit import EpisodeTrainer, returns, token_advantages, turn_advantages  # noqa: E402
from raggym_env.training.trl.episodes import EpisodeRollouts, episode_prompts, episode_return  # noqa: E402
from raggym_env.training.trl.tokens import TurnTokens, state_key  # noqa: E402
from tiny_llm import tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

TASK = Task(Question("ada", "Where was Ada born?"), ("Oslo",))
PASSAGES = {"Ada": [Passage("ada", "Ada", "Ada was born in Oslo.")], "Bo": [Passage("bo", "Bo", "Bo: Rome.")]}

# Two rollouts that search for Ada and are in one state after it, one that searches for Bo and for Ada, and one whose
# second reply has no action.
RIGHT = ("I look. <search>Ada</search><|end|>", "<answer>Oslo</answer><|end|>")
WRONG = ("<search>Ada</search><|end|>", "So be it. <answer>Rome</answer><|end|>")
LONG = ("First: <search>Bo</search><|end|>", "<search>Ada</search><|end|>", "Good. <answer>Oslo</answer><|end|>")
BABBLE = ("Hm. <search>Bo</search><|end|>", "It says nothing.<|end|>")
DIALOGUES = (RIGHT, WRONG, LONG, BABBLE)


class Prices:
    """Scores a search for Ada 0.5, any other 0.25, an answer 0; `changes` replaces scores, by text and turn."""

    def __init__(self, **changes):
        self.changes = changes

    def score(self, states, actions):
        return [
            np.array([self._score(state, action) for action in row]) for state, row in zip(states, actions, strict=True)
        ]

    def _score(self, state, action):
        text = getattr(action, "query", None) or action.text
        score = (0.5 if text == "Ada" else 0.25) if hasattr(action, "query") else 0.0
        return self.changes.get(f"{text}{len(state.history)}", score)


def test_returns_are_discounted_sums_from_a_turn_on():
    assert returns([1.0, 2.0, 4.0], 1.0) == [7.0, 6.0, 4.0]
    assert returns([1.0, 2.0, 4.0], 0.5) == [3.0, 4.0, 4.0]
    assert returns([1.0, 2.0, 4.0], 0.0) == [1.0, 2.0, 4.0]
    assert returns([], 1.0) == []


# The returns, with discount 1: [1.5, 1], [.5, 0], [1.75, 1.5, 1], [-.75, -1]
REWARDS = [[0.5, 1.0], [0.5, 0.0], [0.25, 0.5, 1.0], [0.25, -1.0]]
STATES = [["start", "ada"], ["start", "ada"], ["start", "bo", "bo ada"], ["start", "bo"]]


def test_advantages_agree_with_a_calculation_by_hand():
    first = np.array([1.5, 0.5, 1.75, -0.75]) - 0.75  # all in one state
    alone = 1 - (1 + 1.5 + 0.5 - 0.75) / 4  # the only third turn: against the first turns of the others
    expected = [[first[0], 0.5], [first[1], -0.5], [first[2], 1.25, alone], [first[3], -1.25]]
    raw = turn_advantages(REWARDS, STATES, num_generations=4, scale="none")
    assert [pytest.approx(row) for row in raw] == expected

    everything = np.std([1.5, 1, 0.5, 0, 1.75, 1.5, 1, -0.75, -1], ddof=1) + 1e-4
    scaled = turn_advantages(REWARDS, STATES, num_generations=4, scale="batch")
    assert scaled == [pytest.approx([value / everything for value in row]) for row in raw]

    by_group = turn_advantages(REWARDS, STATES, num_generations=4, scale="group")
    assert by_group[0] == pytest.approx([0.75 / (np.std([1.5, 0.5, 1.75, -0.75], ddof=1) + 1e-4), 0.5**0.5], rel=1e-3)


def test_turns_without_a_like_state_are_compared_at_the_same_index():
    states = [["start", f"state {number}", "end"] for number in range(4)]
    raw = turn_advantages(REWARDS, states, num_generations=4, scale="none")
    assert [row[1] for row in raw] == pytest.approx(np.array([1, 0, 1.5, -1]) - 0.375)


def test_a_question_is_compared_with_itself_alone_unless_it_comes_twice():
    rewards, other = [[1.0], [0.0], [5.0], [3.0]], ["x", "x", "y", "y"]
    apart = turn_advantages(rewards, [[key] for key in other], num_generations=2, scale="none")
    assert apart == [[0.5], [-0.5], [1.0], [-1.0]]
    together = turn_advantages(rewards, [["x"]] * 4, num_generations=2, scale="none")
    assert together == [[-1.25], [-2.25], [2.75], [0.75]]


def test_a_failed_rollout_is_nobodys_peer_and_learns_nothing():
    rewards = [[0.5, 1.0], None, [0.0], None, None, [1.0, 2.0]]
    states = [["s", "a"], ["s", "a"], ["s"], ["t", "b"], ["t"], ["t", "b"]]
    got = turn_advantages(rewards, states, num_generations=3, scale="none")
    # The second turn of the first rollout is alone: 1 against the other's 0.
    assert got == [[0.75, 0.5], [0.0, 0.0], [-0.75], [0.0, 0.0], [0.0], [0.0, 0.0]]


@given(st.lists(st.lists(st.floats(-2, 2), min_size=1, max_size=4), min_size=2, max_size=6), st.floats(0, 1), st.data())
def test_a_reward_reaches_no_later_turn_of_its_rollout_and_advantages_are_bounded(rewards, discount, data):
    states = [["start", *(f"{number}.{turn}" for turn in range(1, len(row)))] for number, row in enumerate(rewards)]
    options = {"num_generations": len(rewards), "discount": discount, "scale": "none"}
    before = turn_advantages(rewards, states, **options)
    rollout = data.draw(st.integers(0, len(rewards) - 1))
    turn = data.draw(st.integers(0, len(rewards[rollout]) - 1))
    changed = [list(row) for row in rewards]
    changed[rollout][turn] += 1
    after = turn_advantages(changed, states, **options)
    assert before[rollout][turn + 1 :] == after[rollout][turn + 1 :]
    assert after[rollout][turn] > before[rollout][turn]
    bound = (len(rewards) - 1) / len(rewards) ** 0.5 + 1e-6
    for row in turn_advantages(rewards, states, **{**options, "scale": "group"}):
        assert all(abs(value) <= bound for value in row)


def test_tokens_get_the_advantage_of_their_own_turn_and_the_environments_none():
    turns = [[TurnTokens(0, 2, "s"), TurnTokens(4, 5, "t")], [TurnTokens(0, 1, "s")]]
    mask = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0]])
    got = token_advantages(turns, [[0.5, -2.0], [1.0]], mask)
    assert got.tolist() == [[0.5, 0.5, 0.0, 0.0, -2.0], [1.0, 0.0, 0.0, 0.0, 0.0]]
    cut_off = mask * torch.tensor([[0], [1]])  # TRL's mask_truncated_completions
    assert torch.equal(token_advantages(turns, [[0.5, -2.0], [1.0]], cut_off), got)
    with pytest.raises(RewardError, match="no turn can be credited"):
        token_advantages(turns, [[0.5, -2.0], [1.0]], torch.ones_like(mask))


def test_a_state_is_its_question_and_its_history():
    question = Question("a", "Who?")
    turn = Turn("x", (Passage("1", "T", "text"),))
    states = [State(question), State(Question("b", "Who?")), State(question, (turn,)), State(question, (turn, turn))]
    states += [State(question, (Turn("x", ()),)), State(question, (Turn("y", turn.passages),))]
    assert len({state_key(state) for state in states}) == len(states)
    assert state_key(State(question, (turn,), episode=3)) == state_key(State(question, (turn,)))


@pytest.fixture(scope="module")
def tokenizer():
    torch.set_num_threads(1)
    made = tiny_tokenizer()
    made.pad_token = made.eos_token
    return made


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


class Script:
    """Replies with the dialogues, one for each rollout in turn."""

    def __init__(self, tokenizer, dialogues=DIALOGUES):
        self.tokenizer, self.dialogues = tokenizer, itertools.cycle(dialogues)
        self.every = dialogues

    def __call__(self, trainer, prompts):
        return [self.tokenizer(self._line(self.tokenizer.decode(ids)))["input_ids"] for ids in prompts], None

    def _line(self, text):
        if "<information>\n" not in text:
            return next(self.dialogues)[0]
        first = text.split("<|start|>assistant\n")[1]
        lines = next(lines for lines in self.every if first.startswith(lines[0]))
        return lines[text.count("<information>\n")]


def make_trainer(tokenizer, folder, prices=None, *, fails=(), dialogues=DIALOGUES, args=None, **options):
    retriever = ScriptedRetriever(PASSAGES, fails=list(fails), default=["Unrelated"])
    env = RAGEnv([TASK], Dynamics(retriever, k=1, max_searches=3), StepReward("em", prices or Prices()))
    settings = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 64, "max_steps": 1}
    settings |= {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    settings |= {"scale_rewards": "none", **(args or {})}
    defaults = {
        "reward_funcs": episode_return,
        "rollout_func": EpisodeRollouts(env, generate=Script(tokenizer, dialogues)),
    }
    trainer = EpisodeTrainer(
        tiny_model(tokenizer, context=4096),
        args=trl.GRPOConfig(output_dir=str(folder), **settings),
        train_dataset=episode_prompts(env),
        processing_class=tokenizer,
        **{**defaults, **options},
    )
    trainer.model.train()
    return trainer, [episode_prompts(env)[0] for _ in range(4)]


def gradients(trainer, rows):
    """Return the gradient of the loss with respect to each token's log-probability, and the batch."""
    batch = trainer._generate_and_score_completions(rows)
    kept = []
    compute = trainer._get_per_token_logps_and_entropies

    def keep(*args, **kwargs):
        logps, *rest = compute(*args, **kwargs)
        logps.retain_grad()
        kept.append(logps)
        return (logps, *rest)

    trainer._get_per_token_logps_and_entropies = keep
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, batch).backward()
    return kept[-1].grad, batch


def spans(rows):
    return [[(turn.start, turn.end) for turn in row["episode_turns"]] for row in rows]


def changed_turns(tokenizer, folder, changes, **options):
    """Return, as (rollout, turn), the turns whose tokens' gradients change with the changed prices."""
    before, _ = gradients(*make_trainer(tokenizer, folder, **options))
    after, batch = gradients(*make_trainer(tokenizer, folder, Prices(**changes), **options))
    trainer, rows = make_trainer(tokenizer, folder, **options)
    trainer._generate_and_score_completions(rows)
    own = (batch["completion_mask"] * batch["tool_mask"]).bool()
    differs = (before - after).abs() > 1e-9
    assert not differs[~own].any()
    assert not before[~own].any()
    turns = set()
    for rollout, row in enumerate(spans(rows)):
        for turn, (start, end) in enumerate(row):
            assert differs[rollout, start:end].all() == differs[rollout, start:end].any()
            if differs[rollout, start:end].any():
                turns.add((rollout, turn))
    return turns


def test_the_tokens_of_a_turn_are_its_reply(tokenizer, tmp_path):
    trainer, rows = make_trainer(tokenizer, tmp_path)
    batch = trainer._generate_and_score_completions(rows)
    for ids, row, lines in zip(batch["completion_ids"], spans(rows), DIALOGUES, strict=True):
        assert tuple(tokenizer.decode(ids[start:end]) for start, end in row) == lines
    assert [row["episode_rewards"] for row in rows] == REWARDS
    keys = [[turn.state for turn in row["episode_turns"]] for row in rows]
    assert keys[0] == keys[1]
    assert keys[2][:2] == keys[3]
    assert len({key for row in keys for key in row}) == 4
    expected = turn_advantages(REWARDS, keys, num_generations=4, scale="none")
    for advantages, row, values in zip(batch["advantages"], spans(rows), expected, strict=True):
        assert [advantages[start].item() for start, _ in row] == pytest.approx(values)
    assert trainer._metrics["train"]["credit/same_state"] == [8 / 9]


def test_gradients_reach_only_the_turn_that_earned_them(tokenizer, tmp_path):
    """A change of the third turn's own reward. The last turn of the longest rollout has no peers but first turns."""
    changes = {"Oslo2": 1.0}
    assert changed_turns(tokenizer, tmp_path, changes, discount=0.0) == {(2, 2)}
    # What the answer earns is also what the searches before it led to; then first and second turns of its peers compare
    # with more. No turn after, and no turn in a state of its own, is touched.
    with_future = {(2, 2), (2, 1), (2, 0), (3, 1), (0, 0), (1, 0), (3, 0)}
    assert changed_turns(tokenizer, tmp_path, changes, discount=1.0) == with_future


def test_a_reward_changes_its_own_turn_and_what_is_compared_with_it(tokenizer, tmp_path):
    """A change of the second turn's reward of the first rollout: the second rollout was in the same state."""
    assert changed_turns(tokenizer, tmp_path, {"Oslo1": 0.5}, discount=0.0) == {(0, 1), (1, 1)}


def test_with_credit_per_episode_a_reward_is_smeared_over_all_tokens(tokenizer, tmp_path):
    everywhere = {(rollout, turn) for rollout, lines in enumerate(DIALOGUES) for turn in range(len(lines))}
    assert changed_turns(tokenizer, tmp_path, {"Oslo2": 1.0}, credit="episode") == everywhere


def test_the_gradient_is_the_advantage_over_the_number_of_tokens(tokenizer, tmp_path):
    gradient, batch = gradients(*make_trainer(tokenizer, tmp_path))
    mask = batch["completion_mask"] * batch["tool_mask"]
    assert torch.allclose(gradient, -batch["advantages"] * mask / mask.sum(), atol=1e-7)


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"])
def test_every_loss_of_trl_takes_an_advantage_per_token(tokenizer, tmp_path, loss):
    gradient, batch = gradients(*make_trainer(tokenizer, tmp_path, args={"loss_type": loss}))
    assert torch.equal(torch.sign(gradient), -torch.sign(batch["advantages"]))
    assert batch["advantages"].any()


def test_an_invalid_reply_is_penalized_in_its_own_turn(tokenizer, tmp_path):
    trainer, rows = make_trainer(tokenizer, tmp_path, discount=0.0)
    advantages = trainer._generate_and_score_completions(rows)["advantages"]
    (_, (start, end)) = spans(rows)[3]
    assert (advantages[3, start:end] < 0).all()
    assert advantages[3, 0] == advantages[2, 0]  # both searched for Bo


def test_a_failed_episode_has_no_advantage_and_leaves_the_others_alone(tokenizer, tmp_path):
    broken = ("Hm. <search>broken</search><|end|>",)
    trainer, rows = make_trainer(tokenizer, tmp_path, fails=["broken"], dialogues=(RIGHT, WRONG, LONG, broken))
    batch = trainer._generate_and_score_completions(rows)
    assert rows[3]["episode_rewards"] is None
    assert not batch["advantages"][3].any()
    assert batch["advantages"][0, 0].item() == pytest.approx(1.5 - (1.5 + 0.5 + 1.75) / 3)
    trainer, rows = make_trainer(tokenizer, tmp_path, fails=["broken"], dialogues=(broken,))
    with pytest.raises(RewardError, match="All 4 episodes of a batch failed"):
        trainer._generate_and_score_completions(rows)


def test_batches_stay_together_when_trl_shuffles_and_splits_them(tokenizer, tmp_path):
    trainer, _ = make_trainer(
        tokenizer, tmp_path, args={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    )
    seen = []
    compute = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: seen.append(inputs) or compute(model, inputs)
    trainer.train()
    assert len(seen) == 4
    for batch in seen:
        assert batch["advantages"].shape == batch["completion_ids"].shape
        mask = batch["completion_mask"] * batch["tool_mask"]
        assert not batch["advantages"][mask == 0].any()
        assert batch["advantages"].unique().numel() > 2
    assert "credit/same_state" in trainer.state.log_history[0]


@pytest.mark.parametrize(
    ("options", "args", "message"),
    [
        ({"credit": "token"}, {}, "credit must be one of"),
        ({"discount": 1.5}, {}, r"discount must be in \[0, 1\]"),
        ({"reward_funcs": [episode_return, episode_return]}, {}, "needs reward_funcs=episode_return"),
        ({}, {"importance_sampling_level": "sequence"}, "needs importance_sampling_level='token'"),
        ({}, {"multi_objective_aggregation": "normalize_then_sum"}, "needs multi_objective_aggregation"),
    ],
)
def test_what_would_mix_turns_is_refused(tokenizer, tmp_path, options, args, message):
    with pytest.raises(OptionError, match=message):
        make_trainer(tokenizer, tmp_path, args=args, **options)


def test_rollouts_without_turns_are_refused(tokenizer, tmp_path):
    trainer, rows = make_trainer(tokenizer, tmp_path)
    rollouts = trainer.rollout_func
    hidden = ("episode_turns",)
    trainer.rollout_func = lambda *args: {k: v for k, v in rollouts(*args).items() if k not in hidden}
    with pytest.raises(RewardError, match="no turns to credit"):
        trainer._generate_and_score_completions(rows)


def test_the_places_of_trl_that_credit_hooks_into_are_as_they_are_used():
    """`EpisodeTrainer` overrides a private method, so pyproject.toml admits only the minor versions tested here."""
    trainer = trl.GRPOTrainer
    assert list(inspect.signature(trainer._generate_and_score_completions).parameters) == ["self", "inputs"]
    assert "if advantages.dim() == 1:" in inspect.getsource(trainer._compute_loss)
    assert "inp[key] = values[i]" in inspect.getsource(trainer._generate_and_score_completions)
