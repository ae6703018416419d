import pytest

pytest.importorskip("filelock")

from raggym_env.errors import RunError
from raggym_env.storage.work_folder import locked
from raggym_env.training.trl.recipe import Recipe

CONFIG = {"kind": "sft", "options": {"learning_rate": 0.1, "limit": None}, "best": ("executed",)}


def write_recipe(folder, config=CONFIG):
    recipe = Recipe.open(folder, config)
    recipe.report["log"] = [1.0]
    recipe.write()
    return recipe


def test_a_recipe_reads_back_as_it_was_written(tmp_path):
    recipe = write_recipe(tmp_path / "new")
    assert Recipe.read(tmp_path / "new") == Recipe.open(tmp_path / "new", CONFIG) == recipe
    assert recipe.status == "running"


def test_another_recipe_in_the_folder_is_refused_with_what_differs(tmp_path):
    write_recipe(tmp_path)
    with pytest.raises(RunError, match=r"another training: options.learning_rate is 0.1 there and 0.2 here"):
        Recipe.open(tmp_path, {**CONFIG, "options": {"learning_rate": 0.2, "limit": None}})


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not a training folder"):
        Recipe.open(tmp_path, CONFIG)
    with pytest.raises(RunError, match=r"it has no recipe.json"):
        Recipe.read(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2}', '{"format": 1, "config": 3}'])
def test_an_invalid_recipe_file_is_refused(tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(RunError, match=r"recipe\.json"):
        Recipe.read(tmp_path)


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    recipe = write_recipe(tmp_path)
    with locked(recipe.path), pytest.raises(RunError, match="Another process is writing"):
        locked(Recipe.open(tmp_path, CONFIG).path)
