"""What pip installs: the wheel and the sdist are built, installed into empty environments, and run.

The environments hold the core dependencies and no extra, so whatever works only where an extra is installed fails
here. Nothing is downloaded.
"""

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ADAPTERS = ROOT / "adapters"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

MEBIBYTE = 2**20
EPISODE = """
import importlib.util
import gymnasium as gym
import raggym_env

assert importlib.util.find_spec("numba") is None  # an extra: the environment is as empty as it should be
env = gym.make("RAGGym-Synth-v0")
obs, info = env.reset(seed=0)
obs, *_ = env.step(raggym_env.Search(obs["question"]))
assert len(obs["history"][0].passages) == 5
envs = gym.make_vec("RAGGym-Synth-v0", num_envs=32)  # so many searches at once would use numba
obs, infos = envs.reset(seed=0)
envs.step([raggym_env.Search(question) for question in obs["question"]])
print(raggym_env.__file__)
"""


def run(*command, cwd, **environment):
    # Installed packages are what is tested: PYTHONPATH would put a checkout before them.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(project, kind, folder):
    """Build a wheel or an sdist, without the isolation for which pip would have to download the build back end."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    # The build back end has to be importable, wherever this environment has it.
    path = os.pathsep.join(filter(None, sys.path))
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        f"--{kind}",
        "--outdir",
        folder,
        project,
        cwd=folder,
        PYTHONPATH=path,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def adapters_wheel(tmp_path_factory):
    if not (ADAPTERS / "pyproject.toml").is_file():
        pytest.skip("the adapters are not part of this tree")
    return build(ADAPTERS, "wheel", tmp_path_factory.mktemp("adapters"))


def required(requirements):
    """Return the names of the distributions that meet some requirements, and of all that these require in turn."""
    names, queue = set(), [Requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            queue += map(Requirement, distribution(name).requires or ())
    return names


def empty_environment(folder):
    """Make a virtual environment with the core dependencies only, as links into the environment that runs the tests."""
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next((folder / "lib").glob("python3.*")) / "site-packages"
    for name in required(PROJECT["dependencies"]):
        files = distribution(name).files
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            (packages / top).symlink_to(distribution(name).locate_file(top))
    return folder


def install(environment, *distributions, cwd):
    # The running pip installs into the other environment. Without an index it fails if a requirement is not met there.
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet")
    path = os.pathsep.join(filter(None, sys.path))
    run(*pip, "--no-index", "--no-build-isolation", *distributions, cwd=cwd, PYTHONPATH=path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installed_distribution_makes_an_environment_and_evaluates_a_policy(kind, request, tmp_path):
    environment = empty_environment(tmp_path / "venv")
    install(environment, request.getfixturevalue(kind), cwd=tmp_path)
    file = run(environment / "bin" / "python", "-W", "error", "-c", EPISODE, cwd=tmp_path)
    assert Path(file.strip()).is_relative_to(environment)

    command = (environment / "bin" / "raggym", "eval", "RAGGym-Synth-v0", "--policy", "lexical", "--limit", "2")
    assert "2 of 2 questions scored" in run(*command, cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_is_small_and_holds_the_cards_and_weights_but_no_adapter(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wheel.stat().st_size < 1.25 * MEBIBYTE  # an adapter alone has more than one
    cards = {
        f"raggym_env/_cards/{path.relative_to(ROOT)}"
        for kind in ("envs", "policies")
        for path in (ROOT / kind).iterdir()
    }
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "raggym_env").rglob("*.py")}
    data = {
        "raggym_env/py.typed",
        "raggym_env/rewards/weights/mini.safetensors",
        "raggym_env/rewards/weights/mini.json",
        "raggym_env/evaluation/published.toml",
        "raggym_env/data/row_lists.toml",
    }
    assert cards | sources | data <= names
    assert [name for name in names if "adapter_model" in name or "/_adapters/" in name] == []


@pytest.mark.slow
def test_the_sdist_holds_the_tests_and_what_the_make_targets_read(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "tests/conftest.py",
        "benchmarks/leaderboard.py",
        "docs/conf.py",
    } <= names
    assert [name for name in names if name.startswith(("adapters/", "runs/", ".venv"))] == []


@pytest.mark.slow
def test_an_installed_adapter_is_known_by_its_name(wheel, adapters_wheel, tmp_path):
    environment = empty_environment(tmp_path / "venv")
    install(environment, wheel, adapters_wheel, cwd=tmp_path)
    code = "from raggym_env.models import catalogue; print(catalogue.adapters()['compact-hotpotqa'])"
    folder = Path(run(environment / "bin" / "python", "-c", code, cwd=tmp_path).strip())
    assert folder.is_relative_to(environment)
    assert (folder / "adapter_model.safetensors").stat().st_size > MEBIBYTE  # the weights, not a pointer to them


def test_every_extra_that_an_error_message_or_the_readme_names_exists():
    named = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtra":
                named.add(ast.literal_eval(node.args[1]))
    for path in (ROOT / "README.md", ROOT / "Makefile"):
        for extras in re.findall(r"\.\[([\w,]+)\]", path.read_text(encoding="utf-8")):
            named.update(extras.split(","))
    assert named
    assert named <= EXTRAS.keys()


# Frameworks whose own pins differ from ours: each is installed into another environment, without constraints.txt.
OWN_ENVIRONMENT = {"verifiers", "nemo-gym"}


def test_all_stands_for_every_extra_but_those_of_developers():
    (requirement,) = map(Requirement, EXTRAS["all"])
    assert requirement.extras == EXTRAS.keys() - {"all", "dev", "docs", *OWN_ENVIRONMENT}


def test_every_direct_dependency_is_pinned_to_a_version_that_pyproject_allows():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line[0] != "#")
    }
    pinned = [texts for extra, texts in EXTRAS.items() if extra not in OWN_ENVIRONMENT]
    direct = [Requirement(text) for texts in (PROJECT["dependencies"], *pinned) for text in texts]
    for requirement in direct:
        name = canonicalize_name(requirement.name)
        if name != PROJECT["name"]:
            assert pins.get(name, "") in requirement.specifier, requirement


def test_the_citation_and_the_changelog_are_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"\n## {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
