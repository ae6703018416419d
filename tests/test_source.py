"""Rules that the source of the package keeps."""

import ast
from pathlib import Path

import pytest

import raggym_env

SOURCES = sorted(Path(raggym_env.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_nothing_untrusted_is_ever_evaluated_unpickled_or_run_in_a_shell(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert not (isinstance(node.func, ast.Name) and name in {"eval", "exec", "compile"})
            assert name not in {"system", "popen", "literal_eval"}
            risky = {keyword.arg for keyword in node.keywords if getattr(keyword.value, "value", None) is True}
            assert not risky & {"shell", "trust_remote_code", "allow_pickle"}
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def test_the_core_and_the_environments_do_not_import_what_they_must_not_know():
    """What each part does not know is as telling as what it does."""
    forbidden = {
        "envs": ("policies", "evaluation", "llm"),
        "retrieval": ("envs", "policies", "rewards", "process"),
        "rewards": ("policies", "envs", "evaluation"),
        "policies": ("data", "envs", "evaluation", "mdp"),
        "data": ("envs", "policies", "rewards", "evaluation"),
    }
    # The seam to Gymnasium puts the parts together; a choice among proposals, and a value of completing an episode,
    # need to know what a policy is.
    excepted = {
        "envs/registration.py": {"policies", "evaluation", "llm"},
        "envs/candidates.py": {"policies"},
        "rewards/rollout.py": {"policies"},
        "rewards/__init__.py": {"policies"},  # makes the policy that completes episodes
    }
    root = SOURCES[0].parent
    for part, unknown in forbidden.items():
        for path in (root / part).rglob("*.py"):
            allowed = excepted.get(path.relative_to(root).as_posix(), set())
            assert not _parts_known(path) & set(unknown) - allowed, path


def _parts_known(path):
    """The parts of the package that a file imports, in whatever way."""
    known = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "raggym_env":
            known |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            known |= {node.module.split(".")[1]} if (node.module or "").startswith("raggym_env.") else set()
        elif isinstance(node, ast.Import):
            known |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("raggym_env.")}
    return known
