import pytest

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("datasets")
pytest.importorskip("trl")

from raggym_env.evaluation import evaluate  # noqa: E402
from raggym_env.training import Renderer, TrainingConfig, collect, export, train_sft  # noqa: E402
from raggym_env.training.trl.lm import load  # noqa: E402
from towns import write_towns  # noqa: E402
from trained import AGENT, write_model  # noqa: E402

pytestmark = pytest.mark.slow

CPU = {"device": "cpu"}


def test_collected_data_is_exported_trained_on_and_the_trained_agent_evaluated(tmp_path):
    card = write_towns(tmp_path / "towns", questions=6)
    agent = tmp_path / "agent.toml"
    agent.write_text(AGENT.replace("max_tokens = 24", "max_tokens = 64"), encoding="utf-8")  # a token is a byte here
    model = write_model(tmp_path / "model")

    data = collect(card, "lexical", critic="evidence", n=3, settings={"retrieval.k": 1}, out=tmp_path / "data")
    provenance = export(data, tmp_path / "rows", "sft", Renderer(agent))
    rows = datasets.load_from_disk(str(tmp_path / "rows"))
    assert len(rows) == provenance["counts"]["rows"] == sum(len(each.steps) for each in data.trajectories())

    # Few steps at a high rate: the tiny model only has to learn to write actions.
    config = TrainingConfig(
        str(model), max_steps=60, learning_rate=5e-3, per_device_train_batch_size=4,
        gradient_accumulation_steps=1, lora_rank=0, device="cpu",
    )  # fmt: skip
    recipe = train_sft(data, tmp_path / "sft", agent=agent, config=config)
    assert recipe.report["rows"]["used"] == len(rows)

    def unreadable_replies(name):
        settings = {"retrieval.k": 1, "policy.options.llm": f"hf:{name}", "policy.options.llm_options": CPU}
        run, scores = evaluate(card, agent, settings=settings, out=tmp_path / f"run-{name.rpartition('/')[2]}")
        assert scores.scored == 6
        return sum(episode.stop == "no_action" for episode in run.episodes())

    assert unreadable_replies(str(model)) == 6
    assert unreadable_replies(recipe.report["result"]) <= 2  # measured: 0
    assert load(recipe.report["result"]).identity() != load(str(model)).identity()
