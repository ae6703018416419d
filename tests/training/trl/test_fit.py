import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.errors import RunError
from raggym_env.training import train_sft
from raggym_env.training.trl.config import EvalSpec
from raggym_env.training.trl.fit import ProcessData, held_out_split
from raggym_env.training.trl.recipe import Recipe
from towns import write_towns
from trained import losses, same, weights, write_workshop

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


def killed_at(last):
    """Return a progress function that interrupts the training after so many steps."""

    def progress(stage, done, total, info):
        if done == last:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_training_resumes_and_ends_with_the_same_weights(shop, tmp_path):
    options = {"agent": shop.agent, "config": shop.config(max_steps=4, save_steps=1)}
    train_sft(shop.data, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train_sft(shop.data, tmp_path / "cut", **options, progress=killed_at(3))
    assert Recipe.read(tmp_path / "cut").status == "running"
    torn = tmp_path / "cut" / "checkpoints" / "checkpoint-9"  # of a process that was killed as it wrote
    torn.mkdir()
    (torn / "adapter_model.safetensors").touch()

    steps = []
    recipe = train_sft(
        shop.data, tmp_path / "cut", **options, progress=lambda stage, done, total, info: steps.append(done)
    )
    assert min(steps) == 3  # the third step had no checkpoint yet when it was cut off
    assert losses(recipe) == losses(Recipe.read(tmp_path / "whole"))
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not recipe.checkpoints.exists()


def test_a_training_that_has_ended_is_not_repeated(shop, tmp_path):
    options = {"agent": shop.agent, "config": shop.config()}
    first = train_sft(shop.data, tmp_path, **options)
    written = (tmp_path / "adapter_model.safetensors").stat().st_mtime_ns
    again = train_sft(shop.data, tmp_path, **options, progress=killed_at(1))
    assert again == first
    assert (tmp_path / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_other_data_or_options_in_the_same_folder_are_refused(shop, tmp_path):
    train_sft(shop.data, tmp_path / "out", agent=shop.agent, config=shop.config())
    with pytest.raises(RunError, match=r"options\.seed is 0 there and 1 here"):
        train_sft(shop.data, tmp_path / "out", agent=shop.agent, config=shop.config(seed=1))
    other = write_workshop(tmp_path / "other", questions=4)
    with pytest.raises(RunError, match=r"data\.episodes_sha256 is"):
        train_sft(other.data, tmp_path / "out", agent=shop.agent, config=shop.config())


def test_the_original_model_is_evaluated_before_training_and_the_trained_model_after(shop, tmp_path):
    stages = []
    recipe = train_sft(
        shop.data,
        tmp_path,
        agent=shop.agent,
        config=shop.config(),
        evaluation=EvalSpec(str(shop.card), limit=2, settings={"retrieval.k": 1}),
        progress=lambda stage, *rest: stages.append(stage),
    )
    assert list(dict.fromkeys(stages)) == ["before", "train", "after"]
    assert recipe.report["before"]["scored"] == recipe.report["after"]["scored"] == 2
    assert set(recipe.report["after"]["scores"]) >= {"em", "f1", "recall"}
    models = [Recipe.read(tmp_path).path / stage / "run.json" for stage in ("before", "after")]
    before, after = (path.read_text() for path in models)
    assert f'"hf:{shop.model}"' in before
    assert f'"hf:{shop.model}+{tmp_path}"' in after


def test_an_evaluation_can_be_added_to_a_finished_training(shop, tmp_path):
    options = {"agent": shop.agent, "config": shop.config()}
    train_sft(shop.data, tmp_path, **options)
    stages = []
    evaluation = EvalSpec(str(shop.card), limit=1)
    for _ in range(2):
        train_sft(
            shop.data, tmp_path, **options, evaluation=evaluation, progress=lambda stage, *rest: stages.append(stage)
        )
    assert stages == ["before", "after"]


def test_rows_that_are_too_long_are_dropped_and_counted(shop, tmp_path):
    recipe = train_sft(shop.data, tmp_path / "a", agent=shop.agent, config=shop.config(max_length=200))
    counts = recipe.report["rows"]
    assert counts["used"] > 0
    assert counts["too_long"] > 0
    assert counts["mean_tokens"] <= 200
    with pytest.raises(RunError, match=r"longer than max_length = 20; the shortest has \d+ tokens"):
        train_sft(shop.data, tmp_path / "b", agent=shop.agent, config=shop.config(max_length=20))


def test_data_without_trajectories_is_refused(tmp_path):
    shop = write_workshop(tmp_path, questions=2)
    record = shop.data / "episodes.jsonl"
    record.write_text("")
    with pytest.raises(RunError, match="holds no trajectory to train on: none of its 0 episodes"):
        ProcessData.read(shop.data)
    with pytest.raises(RunError, match="holds no process data"):
        ProcessData.read(write_towns(tmp_path / "more").parent)


def test_several_collections_are_mixed_by_their_weights_and_the_recipe_records_them(shop, tmp_path):
    other = write_workshop(tmp_path / "other", questions=4)
    data = [shop.data, f"{other.data}:0.5"]
    source = ProcessData.read(data, seed=1)
    assert len(source.trajectories) == 6 + 2
    one, two = source.identity["collections"]
    assert (one["weight"], two["weight"]) == (1.0, 0.5)
    assert one["episodes_sha256"] != two["episodes_sha256"]
    assert len(ProcessData.read(data, limit=2).trajectories) == 2 + 1
    # One collection as it is has the identity that it always had.
    assert ProcessData.read([shop.data]).identity == ProcessData.read(shop.data).identity
    assert set(ProcessData.read(shop.data).identity) == {"episodes_sha256", "collect", "outcome_weight"}
    with pytest.raises(RunError, match="no process data to train on"):
        ProcessData.read([])


def test_a_training_on_other_weights_is_not_resumed(shop, tmp_path):
    options = {"agent": shop.agent, "config": shop.config(max_steps=1)}
    recipe = train_sft([shop.data, f"{shop.data}:2"], tmp_path, **options)
    assert train_sft([shop.data, f"{shop.data}:2"], tmp_path, **options) == recipe
    for data in (shop.data, [shop.data, f"{shop.data}:3"], [f"{shop.data}:2", shop.data]):
        with pytest.raises(RunError, match="data"):
            train_sft(data, tmp_path, **options)


def test_a_question_of_two_collections_is_held_out_in_both(shop):
    trajectories = ProcessData.read([shop.data, f"{shop.data}:2"]).trajectories
    training, test = held_out_split(trajectories, 0.34, seed=0)
    assert {each.question for each in training}.isdisjoint(each.question for each in test)
    assert (len(training), len(test)) == (12, 6)


def test_held_out_questions_are_not_trained_on(shop):
    trajectories = ProcessData.read(shop.data).trajectories
    training, test = held_out_split(trajectories, 0.34, seed=0)
    assert (len(training), len(test)) == (4, 2)
    assert {each.question.id for each in training}.isdisjoint(each.question.id for each in test)
    assert held_out_split(trajectories, 0.34, seed=0) == (training, test)
    assert held_out_split(trajectories, 0.0, seed=0) == (trajectories, [])
