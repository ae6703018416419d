"""The commands that list what there is: they fit a terminal of 80 columns, and cut nothing off."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from raggym_env.cards import EnvCard, PolicyCard, env_card, override, policy_card
from raggym_env.cli import app
from raggym_env.registry import PROCESS_REWARDS, RETRIEVERS
from raggym_env.storage.paths import card_names


def raggym(*arguments, columns=80):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result.output


NAMES = {
    "envs": card_names("envs"),
    "policies": card_names("policies"),
    "rewards": list(PROCESS_REWARDS),
    "retrievers": list(RETRIEVERS),
    "data list": card_names("envs"),
    "models list": ["smollm2", "minilm"],
}


@pytest.mark.parametrize("command", NAMES)
def test_a_table_fits_80_columns_and_cuts_nothing_off(command):
    text = raggym(*command.split())
    assert all(len(line) <= 80 or "`" in line for line in text.splitlines())
    assert "…" not in text
    for name in NAMES[command]:
        assert any(line.lstrip("│ ").startswith(f"{name} ") for line in text.splitlines()), name


def test_what_a_plug_in_or_a_policy_needs_is_listed():
    needs = {plugin["name"]: " ".join(plugin["needs"]) for plugin in json.loads(raggym("rewards", "--json"))}
    for name in ("evidence", "evidence_value", "rollout", "information_gain"):
        assert "train splits only" in needs[name]
    assert "language model" in needs["judge"]
    assert "language model" in needs["information_gain"]
    assert "the extra llm" in needs["model"]
    assert (needs["mini"], needs["random"]) == ("", "")
    needs = {plugin["name"]: " ".join(plugin["needs"]) for plugin in json.loads(raggym("retrievers", "--json"))}
    assert ("the extra dense" in needs["dense"], "url=" in needs["http"], needs["bm25"]) == (True, True, "")
    lines = {line.split()[0]: line for line in raggym("policies").splitlines() if line.split()}
    assert "--llm" in lines["react"]
    assert "--llm" not in lines["lexical"]


def test_every_description_is_there_without_importing_what_it_describes():
    code = "import sys; from raggym_env.cli import app; app(['rewards'], standalone_mode=False); "
    code += "print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")
    for command in ("rewards", "retrievers"):
        assert all(plugin["description"] for plugin in json.loads(raggym(command, "--json")))


@pytest.mark.parametrize(("kind", "card"), [("env", "RAGGym-Synth-v0"), ("policy", "react")])
def test_every_key_of_a_card_is_listed_and_can_be_set(kind, card):
    keys = json.loads(raggym("card", "keys", kind, "--json"))
    assert all(key["meaning"] and key["type"] for key in keys if key["key"] != "dataset.options")
    loaded = env_card(card) if kind == "env" else policy_card(card)
    top = {key["name"] for key in keys if not key["table"]}
    assert top == (EnvCard if kind == "env" else PolicyCard).model_fields.keys() - {"name", "path", "trusted"}
    for key in ("title", "retrieval.k", "episode.metric") if kind == "env" else ("description", "search.tree.width"):
        assert key in {entry["key"] for entry in keys}
    for key in keys:
        value = loaded
        for part in key["key"].split("."):
            value = getattr(value, part, None)
        if value is not None and key["type"] != "table" and not key["key"].startswith("dataset."):
            override(loaded, {key["key"]: value})
    text = raggym("card", "keys", kind)
    assert all(key["key"] in text for key in keys)


def test_a_shown_card_is_a_card(tmp_path):
    for name, load in (("RAGGym-Synth-v0", env_card), ("react", policy_card)):
        file = tmp_path / f"{name}.toml"
        file.write_text(raggym("card", "show", name))
        assert load(file).model_dump(exclude={"path"}) == load(name).model_dump(exclude={"path"})
