"""The examples in docstrings hold."""

import doctest
import importlib
from pathlib import Path

import pytest

import raggym_env

ROOT = Path(raggym_env.__file__).parent
MODULES = [
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


# Not by `--doctest-modules`: it would import the test files too, and skip in silence those that fail to import.
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(name):
    pytest.importorskip(name, exc_type=ImportError)  # a back end whose extra is not installed
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert (failed, tried > 0) == (0, True)
