"""Modules of frameworks that are not installed say what to install."""

import importlib
import sys

import pytest

from raggym_env.errors import MissingExtra


@pytest.mark.parametrize(
    ("module", "package", "error", "message"),
    [("skyrl", "skyrl_gym", MissingExtra, r"skyrl"), ("verl", "verl", ImportError, "pip install verl raggym-env")],
)
def test_a_module_without_its_framework_names_the_command(module, package, error, message, monkeypatch):
    monkeypatch.delitem(sys.modules, f"raggym_env.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(error, match=message):
        importlib.import_module(f"raggym_env.integrations.{module}")
