import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from raggym_env.errors import RunError
from raggym_env.training.trl import sft
from raggym_env.training.trl.fit import ProcessData, held_out
from raggym_env.training.trl.options import Exam
from raggym_env.training.trl.recipe import Recipe
from towns import write_towns
from trained import losses, same, weights, write_workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("shop"))


def killed_at(last):
    """A progress function that ends the training once so many steps are done."""

    def progress(stage, done, total, news):
        if done == last:
            raise KeyboardInterrupt

    return progress


def test_a_training_that_was_killed_goes_on_and_ends_with_the_same_weights(shop, tmp_path):
    how = shop.options(steps=4, save_every=1)
    sft.train(shop.data, shop.agent, tmp_path / "whole", how)
    with pytest.raises(KeyboardInterrupt):
        sft.train(shop.data, shop.agent, tmp_path / "cut", how, progress=killed_at(3))
    assert Recipe.read(tmp_path / "cut").status == "running"
    torn = tmp_path / "cut" / "checkpoints" / "checkpoint-9"  # of a process that was killed as it wrote
    torn.mkdir()
    (torn / "adapter_model.safetensors").touch()

    steps = []
    recipe = sft.train(
        shop.data, shop.agent, tmp_path / "cut", how, progress=lambda stage, done, total, news: steps.append(done)
    )
    assert min(steps) == 3  # the third step had no checkpoint yet when it was cut off
    assert losses(recipe) == losses(Recipe.read(tmp_path / "whole"))
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not recipe.checkpoints.exists()


def test_a_training_that_has_ended_is_not_repeated(shop, tmp_path):
    first = sft.train(shop.data, shop.agent, tmp_path, shop.options())
    written = (tmp_path / "adapter_model.safetensors").stat().st_mtime_ns
    again = sft.train(shop.data, shop.agent, tmp_path, shop.options(), progress=killed_at(1))
    assert again == first
    assert (tmp_path / "adapter_model.safetensors").stat().st_mtime_ns == written


def test_other_data_or_options_in_the_same_folder_are_refused(shop, tmp_path):
    sft.train(shop.data, shop.agent, tmp_path / "out", shop.options())
    with pytest.raises(RunError, match=r"options\.seed is 0 there and 1 here"):
        sft.train(shop.data, shop.agent, tmp_path / "out", shop.options(seed=1))
    other = write_workshop(tmp_path / "other", questions=4)
    with pytest.raises(RunError, match=r"data\.episodes_sha256 is"):
        sft.train(other.data, shop.agent, tmp_path / "out", shop.options())


def test_an_exam_is_sat_before_and_after_with_the_model_as_it_was_and_as_it_is(shop, tmp_path):
    exam = Exam(str(shop.card), limit=2, settings={"retrieval.k": 1})
    stages = []
    recipe = sft.train(
        shop.data, shop.agent, tmp_path, shop.options(), exam=exam, progress=lambda stage, *rest: stages.append(stage)
    )
    assert list(dict.fromkeys(stages)) == ["before", "train", "after"]
    assert recipe.report["before"]["scored"] == recipe.report["after"]["scored"] == 2
    assert set(recipe.report["after"]["scores"]) >= {"em", "f1", "recall"}
    models = [Recipe.read(tmp_path).path / stage / "run.json" for stage in ("before", "after")]
    before, after = (path.read_text() for path in models)
    assert f'"hf:{shop.model}"' in before
    assert f'"hf:{shop.model}+{tmp_path}"' in after


def test_an_exam_can_be_asked_for_later(shop, tmp_path):
    sft.train(shop.data, shop.agent, tmp_path, shop.options())
    stages = []
    exam = Exam(str(shop.card), limit=1)
    for _ in range(2):
        sft.train(
            shop.data,
            shop.agent,
            tmp_path,
            shop.options(),
            exam=exam,
            progress=lambda stage, *rest: stages.append(stage),
        )
    assert stages == ["before", "after"]


def test_rows_that_are_too_long_are_left_out_and_counted(shop, tmp_path):
    counted = sft.train(shop.data, shop.agent, tmp_path / "a", shop.options(max_length=200)).report["rows"]
    assert counted["used"] > 0
    assert counted["too_long"] > 0
    assert counted["mean_tokens"] <= 200
    with pytest.raises(RunError, match=r"longer than max_length = 20; the shortest has \d+ tokens"):
        sft.train(shop.data, shop.agent, tmp_path / "b", shop.options(max_length=20))


def test_data_with_nothing_to_train_on_is_refused(tmp_path):
    shop = write_workshop(tmp_path, questions=2)
    record = shop.data / "episodes.jsonl"
    record.write_text("")
    with pytest.raises(RunError, match="holds no trajectory to train on: of 0 episodes none"):
        ProcessData.read(shop.data)
    with pytest.raises(RunError, match="holds no process data"):
        ProcessData.read(write_towns(tmp_path / "more").parent)


def test_held_out_questions_are_not_trained_on(shop):
    every = ProcessData.read(shop.data).trajectories
    kept, held = held_out(every, 0.34, seed=0)
    assert (len(kept), len(held)) == (4, 2)
    assert {each.question.id for each in kept}.isdisjoint(each.question.id for each in held)
    assert held_out(every, 0.34, seed=0) == (kept, held)
    assert held_out(every, 0.0, seed=0) == (every, [])
