"""Training on whole episodes, from the environment's card to the folder of the result."""

import json
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from raggym_env.build import load_mdp  # noqa: E402
from raggym_env.core import Answer, Search  # noqa: E402
from raggym_env.errors import OptionError, RunError, UnknownName  # noqa: E402
from raggym_env.training import EpisodeConfig, EvalSpec, ReplyConfig, train_episodes  # noqa: E402
from raggym_env.training.trl.config import TrainingConfig  # noqa: E402
from raggym_env.training.trl.episode_grpo import HeldOut, generate_greedily  # noqa: E402
from raggym_env.training.trl.episodes import episode_examples  # noqa: E402
from raggym_env.training.trl.recipe import Recipe  # noqa: E402
from tiny_llm import tiny_model, tiny_tokenizer  # noqa: E402
from towns import write_towns  # noqa: E402
from trained import same, weights, write_model  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

REPLIES = ReplyConfig(num_generations=2, max_completion_length=40)
EPISODES = {"settings": {"episode.max_searches": 2, "retrieval.k": 1}, "passage_chars": 60}


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    return write_towns(tmp_path_factory.mktemp("towns"), 4)


@pytest.fixture(scope="module")
def actor(card, tmp_path_factory):
    """A tiny model that was taught the format, so that some of its replies are actions."""
    folder = write_model(tmp_path_factory.mktemp("plain"))
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    mdp = load_mdp(card, "train", k=1, max_searches=2)
    rows = []
    for task in mdp.tasks:
        start = mdp.dynamics.start(task.question)
        actions = [Search(task.gold_titles[0]), Answer(task.answers[0])]
        after = mdp.dynamics.transition([start], actions[:1])[0]
        rows += episode_examples(list(zip([start, after], actions, strict=True)), passage_chars=60)
    args = trl.SFTConfig(
        str(folder / "sft"), max_steps=30, learning_rate=1e-2, per_device_train_batch_size=4, report_to="none",
        use_cpu=True, save_strategy="no", disable_tqdm=True, max_length=None, completion_only_loss=True, bf16=False,
    )  # fmt: skip
    from datasets import Dataset

    model = tiny_model(tokenizer, context=2048)
    trl.SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    model.save_pretrained(folder / "actor")
    tokenizer.save_pretrained(folder / "actor")
    return folder / "actor"


def config(model, **changes):
    quick = {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "lora_rank": 4}
    return TrainingConfig(str(model), **{**quick, "learning_rate": 1e-2, "device": "cpu", **changes})


def test_a_model_learns_in_whole_episodes_and_its_curve_is_recorded(card, actor, tmp_path):
    recipe = train_episodes(
        card,
        tmp_path,
        config=config(actor),
        episodes=EpisodeConfig("evidence", {"search_cost": 0.1}, **EPISODES),
        replies=REPLIES,
        evaluation=EvalSpec(str(card), limit=2),
        eval_every=2,
    )
    assert recipe.status == "trained"
    assert recipe.config["episodes"]["credit"] == "turn"
    assert [entry["step"] for entry in recipe.report["log"]] == [1, 2, 3]
    for entry in recipe.report["log"]:
        metrics = ("outcome", "process_reward", "searches", "no_action", "failed")
        assert {"reward", "credit/same_state", *(f"episodes/{metric}" for metric in metrics)} <= entry.keys()
    curve = recipe.report["curve"]
    assert [entry["step"] for entry in curve] == [0, 2, 3]
    for entry in curve:
        assert 0 <= entry["held_out/f1_low"] <= entry["held_out/f1"] <= entry["held_out/f1_high"] <= 1
        assert entry["held_out/failed"] == 0
    assert any(entry["grad_norm"] > 0 for entry in recipe.report["log"])
    assert any((tensor != 0).any() for name, tensor in weights(tmp_path).items() if "lora_B" in name)
    assert list((tmp_path / "tensorboard").iterdir())


def test_an_interrupted_training_resumes_with_the_same_curve(card, actor, tmp_path):
    def killed(stage, done, total, info):
        if done == 2:
            raise KeyboardInterrupt

    options = {
        "config": config(actor, save_steps=1),
        "episodes": EpisodeConfig("evidence", **EPISODES),
        "replies": REPLIES,
        "evaluation": EvalSpec(str(card), limit=2),
        "eval_every": 1,
    }
    whole = train_episodes(card, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train_episodes(card, tmp_path / "cut", **options, progress=killed)
    cut = train_episodes(card, tmp_path / "cut", **options)
    names = ("step", "reward", "held_out/f1", "held_out/searches")
    curves = [[[entry.get(name) for name in names] for entry in each.report["curve"]] for each in (whole, cut)]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 4
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    with pytest.raises(RunError, match="credit"):
        train_episodes(card, tmp_path / "cut", **{**options, "episodes": EpisodeConfig("evidence", credit="episode")})


def test_the_control_has_the_outcome_alone(card, actor, tmp_path):
    control = EpisodeConfig("none", credit="episode", **EPISODES)
    recipe = train_episodes(card, tmp_path, config=config(actor, max_steps=1), episodes=control, replies=REPLIES)
    (entry,) = recipe.report["log"]
    assert entry["episodes/process_reward"] == 0
    assert "credit/same_state" not in entry
    assert "curve" not in recipe.report
    assert Recipe.read(tmp_path).report["rows"] == {"questions": 4}


def test_greedy_replies_are_those_of_each_prompt_alone(actor):
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).train()
    tokenizer.pad_token = tokenizer.eos_token
    trainer = SimpleNamespace(
        model=model,
        processing_class=tokenizer,
        eos_token_ids=[tokenizer.eos_token_id],
        max_completion_length=12,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, device="cpu"),
    )
    prompts = [tokenizer(text)["input_ids"] for text in ("Ada", "Where was Bo born, and when?", "x" * 40) * 4]
    state = torch.get_rng_state()
    together, logprobs = generate_greedily(trainer, prompts)
    assert together == [generate_greedily(trainer, [prompt])[0][0] for prompt in prompts]
    assert all(1 <= len(reply) <= 12 for reply in together)
    assert logprobs is None
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


def test_held_out_episodes_that_all_fail_are_no_score():
    failed = [SimpleNamespace(id="a", error="RetrievalError: down")]
    rollouts = SimpleNamespace(run=lambda *_: (failed, None), episodes=SimpleNamespace(tasks=[SimpleNamespace(id="a")]))
    with pytest.raises(RunError, match=r"All 1 held-out episodes failed\. The first one: RetrievalError: down"):
        HeldOut(None, rollouts, [], 1).scores()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"episodes": EpisodeConfig("evidense")}, UnknownName, "Did you mean 'evidence'"),
        ({"replies": ReplyConfig(3)}, OptionError, r"num_generations = 3, the rollouts per question; got 2 \* 2 = 4"),
        ({"eval_every": 0}, OptionError, "eval_every must be at least 1"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(card, actor, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        train_episodes(card, tmp_path / "out", **{"config": config(actor), "replies": REPLIES, **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit": "token"}, "credit must be one of"),
        ({"discount": 2.0}, r"discount must be in \[0, 1\]"),
        ({"scale_rewards": "all"}, "scale_rewards must be one of"),
        ({"passage_chars": 0}, "passage_chars must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(OptionError, match=message):
        EpisodeConfig(**options)


def test_the_recipe_is_plain_json(card, actor, tmp_path):
    options = {"config": config(actor, max_steps=1), "episodes": EpisodeConfig("none", **EPISODES), "replies": REPLIES}
    train_episodes(card, tmp_path, **options)
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["config"]["kind"] == "episodes"
    assert train_episodes(card, tmp_path, **options).status == "trained"
