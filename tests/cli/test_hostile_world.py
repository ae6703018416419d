"""Every command on a world that a stranger wrote: what comes out on stdout and stderr, and into files.

Card, questions, corpus, replies of the model, run folders, file names and messages of servers hold control sequences,
markup of Rich, HTML and Markdown, line breaks, invisible characters and texts of megabytes. A new command needs a walk
in `WALKS`.
"""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt
from pyarrow import parquet
from typer.main import get_command
from typer.testing import CliRunner

import raggym_env.training
from raggym_env.cards import env_card
from raggym_env.cli import app
from raggym_env.cli import cards as cards_command
from raggym_env.data import catalogue
from raggym_env.errors import RunError
from raggym_env.evaluation import evaluate
from raggym_env.policies import POLICIES
from raggym_env.protocols import Proposal
from towns import Reader, write_jsonl

VISIBLE = "[/b][bold]x :smile: <script>alert(1)</script>|`a`\\| ![i](http://e.example/x.png) [INST] <|im_end|> "
HOSTILE = f"\x1b]0;title\x07\x1b[2J\x9b31m\x9d8;;x\x9c\u202e\u2066\u200b\ufeff\U000e0041\x7f\x00{VISIBLE}"
HOSTILE += "\r\nraggym: forged\n\u2028| forged | row |\x85# forged\v\fforged"
# What a model can write before and in an action: a control token that opens or ends a turn would end the action, too.
WRITTEN = HOSTILE.replace("[INST] <|im_end|> ", "")
HUGE = f"{HOSTILE} " + "x" * 3_000_000
LONG = HUGE[:100_000]  # a card may not be larger than a megabyte
# In a file's name, without what file systems and arguments cannot hold.
NAME = HOSTILE.replace("/", "∕").replace("\x00", "")[:80]


def toml(text: str) -> str:
    """A basic string of TOML."""
    return "".join(char if char.isalnum() else f"\\U{ord(char):08x}" for char in text).join('""')


CARD = f"""
title = {toml(LONG)}
description = {toml(HOSTILE)}
licence = {toml(HOSTILE)}

[dataset]
format = "jsonl"

[dataset.splits]
test = "all"
train = "all"
train_lost = [{{ questions = "lost{toml(VISIBLE)[1:-1]}.jsonl" }}]

[[dataset.sources]]
questions = "questions.jsonl"
corpus = "corpus.jsonl"

[episode]
max_searches = 3
"""


def write_world(folder: Path) -> None:
    folder.mkdir()
    (folder / "Hostile-v0.toml").write_text(CARD, encoding="utf-8")
    passages = [
        {"id": f"{number} {HOSTILE}", "title": HUGE if number == 1 else f"Town{number} {HOSTILE}", "text": HOSTILE}
        for number in range(5)
    ]
    rows = [
        {
            "id": f"q{number} {HOSTILE}",
            "question": f"Where is Town{number}? {HOSTILE}",
            "golden_answers": [f"River{number} {HOSTILE}", HOSTILE],
            "supporting_facts": [[f"Town{number} {HOSTILE}", 0]],
        }
        for number in range(4)
    ]
    write_jsonl(folder / "corpus.jsonl", passages)
    write_jsonl(folder / "questions.jsonl", rows)
    broken = '{"id": "1", "question": "\\ud800 ' + json.dumps(HOSTILE)[1:-1] + '", "golden_answers": 5}'
    (folder / "broken.jsonl").write_text(f'{broken}\n{{"{VISIBLE.replace(chr(92), "")}\n')
    (folder / "broken.toml").write_text(f'title = "x"\n[{VISIBLE}\n', encoding="utf-8")
    (folder / "agent.toml").write_text(agent_card(folder), encoding="utf-8")
    (folder / "reader.toml").write_text(f'policy = "reader"\ndescription = {toml(HOSTILE)}\n', encoding="utf-8")
    (folder / "results.toml").write_text(
        f'[[result]]\nenvironment = "Hostile-v0"\npolicy = {toml(HOSTILE)}\nsource = {toml(LONG)}\nem = 0.5\n'
    )
    write_jsonl(
        folder / "replies.jsonl",
        [
            {"contains": "<passages", "reply": f'Surely. {WRITTEN} \ud800\n{{"answer": {json.dumps(WRITTEN)}}}'},
            {"contains": "<question>", "reply": f'I wonder. {WRITTEN}\n{{"search": {json.dumps("Town1 " + WRITTEN)}}}'},
        ],
    )
    write_jsonl(folder / "predictions.jsonl", [{"id": rows[0]["id"], "prediction": LONG}])


def agent_card(folder: Path) -> str:
    shipped = Path(__file__).parents[2] / "policies" / "react.toml"
    model = toml(f"scripted:{folder / 'replies.jsonl'}")
    return shipped.read_text(encoding="utf-8").replace("[options]", f"[options]\nllm = {model}")


class Fails(Reader):
    """A policy whose server tells hostile tales."""

    name = fingerprint = HOSTILE

    def propose(self, states, n=1):
        return [[Proposal(None, failure=f"the server said {LONG}", outage=True)] for _ in states]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / f"w {NAME}"
    write_world(folder)
    failed, _ = evaluate(folder / "Hostile-v0.toml", Fails(), out=folder / "failed")
    tamper(failed.path)
    card, agent = folder / "Hostile-v0.toml", folder / "agent.toml"
    check_result(raggym("eval", card, "--policy", agent, "--out", folder / "run"), {0})
    options = ["--critic", "evidence", "--keep", "all", "--n", "2", "--out", folder / "data"]
    check_result(raggym("collect", card, "--policy", agent, *options), {0})
    return folder


def tamper(run: Path) -> None:
    """Put hostile text into the fields of a run folder that are shown."""
    record = json.loads((run / "run.json").read_text())
    record["config"]["policy"] |= {"name": LONG, "options": {HOSTILE: HOSTILE}, "search": {HOSTILE: HOSTILE}}
    record["config"]["environment"]["retrieval"]["options"] = {HOSTILE: LONG}
    record["config"]["corpus"] = HOSTILE
    (run / "run.json").write_text(json.dumps(record))


def raggym(*arguments, **options):
    # color: otherwise Typer would take some of the control sequences out before they are looked for.
    return CliRunner().invoke(app, [str(argument) for argument in arguments], color=True, **options)


# -- what must not come out ---------------------------------------------------------------------------------------


def check_text(text: str, longest: int = 4_100) -> None:
    """No text of the world drives the terminal, hides, forges a line or fills the screen."""
    for char in set(text) - {"\n"}:
        assert unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"}, repr(char)
    assert not re.search("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]", text)
    assert not re.search(r"(?m)^(raggym: |\| |# )?forged", text)
    lines = text.split("\n")
    assert max(map(len, lines)) <= longest
    assert len(lines) < 400


def check_result(result, codes=(0, 1, 2), longest: int = 4_100) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)[:500]
    assert result.exit_code in codes, result.output[-2_000:]
    for text in (result.stdout, result.stderr):
        check_text(text, longest)
        assert "Traceback" not in text


def check_page(file: Path) -> None:
    text = file.read_bytes().decode("utf-8")
    assert "<script>alert" not in text
    content = gzip.decompress(base64.b64decode(re.search(r'id="data">([^<]*)<', text)[1])).decode()
    for string in re.findall(r'"(?:[^"\\]|\\.)*"', content):
        shown = json.loads(string)
        assert {char for char in shown if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}} <= {"\n"}
        assert not re.search("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]", shown)
        assert len(max(shown.split("\n"), key=len)) <= 20_000


def check_board(text: str) -> None:
    """There is one table, it has its shape, and all cells, the heading and the notes are plain text."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    blocks = [token.type for token in tokens if token.level == 0 and token.nesting >= 0]
    assert blocks == ["heading_open", "table_open", "paragraph_open"]
    count = Counter(token.type for token in tokens)
    assert (count["tr_open"], count["td_open"]) == (5, 4 * count["th_open"])
    children = {child.type for token in tokens if token.type == "inline" for child in token.children}
    assert children <= {"text", "text_special"}
    assert "<" not in text


def check_folder(folder: Path) -> None:
    """Every file of a run folder is UTF-8, and none drives the terminal of somebody who prints it."""
    files = [path for path in folder.rglob("*") if path.suffix in {".json", ".jsonl"}]
    assert files
    for path in files:
        text = path.read_bytes().decode("utf-8")
        hidden = {char for char in set(text) if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
        assert hidden <= {"\n", "\x7f"}  # JSON does not escape DEL, which does nothing


# -- the walks ----------------------------------------------------------------------------------------------------


def walk_envs(world, tmp_path, monkeypatch):
    card = SimpleNamespace(
        name="N" * 200,
        title=HUGE,
        dataset=SimpleNamespace(splits={HOSTILE: 1}),
        retrieval=SimpleNamespace(name=HOSTILE, k=3),
        episode=SimpleNamespace(max_searches=3, metric=HOSTILE),
        description=HUGE,
        model_dump=lambda mode: {HOSTILE: HOSTILE},
        policy="prompt",
        options={},
    )
    monkeypatch.setattr(catalogue, "has_data", lambda card: False)
    for kind in ("env_card", "policy_card"):
        monkeypatch.setattr(f"raggym_env.cards.{kind}", lambda name: card)
    for command in ("envs", "policies"):
        check_result(raggym(command), {0})
        check_result(raggym(command, "--json"), {0}, longest=30_000)


def walk_plugins(world, tmp_path, monkeypatch):
    class Made:
        __doc__ = HUGE

        def __init__(self, tasks, llm, path, url):
            """Take what a plug-in may need."""

    for registry in (cards_command.PROCESS_REWARDS, cards_command.RETRIEVERS):
        monkeypatch.setitem(registry, HOSTILE, Made)
    for command in ("rewards", "retrievers"):
        check_result(raggym(command), {0})
        check_result(raggym(command, "--json"), {0}, longest=4_000_000)


def walk_card(world, tmp_path, monkeypatch):
    for kind in ("env", "policy"):
        check_result(raggym("card", "keys", kind), {0})
        check_result(raggym("card", "keys", kind, "--json"), {0})
    check_result(raggym("card", "show", "react"), {0})
    check_result(raggym("card", "show", world / "agent.toml"), {1})
    check_result(raggym("card", "show", HOSTILE), {1})


def walk_play(world, tmp_path, monkeypatch):
    typed = f"Town1 {VISIBLE}\n\n=\n={HOSTILE.splitlines()[0]}\n"
    result = raggym("play", world / "Hostile-v0.toml", "--index", 1, input=typed)
    check_result(result, {0})
    for part in ("Search 1: Town1 [/b][bold]x", "[1] ", "The answer was: River1"):
        assert part in result.stdout
    check_result(raggym("play", world / NAME), {1})
    check_result(raggym("play", world / "Hostile-v0.toml", "--split", HOSTILE), {1})


def walk_eval(world, tmp_path, monkeypatch):
    out = tmp_path / NAME
    result = raggym(
        "eval", world / "Hostile-v0.toml", "--policy", world / "agent.toml", "--out", out, "--set", "retrieval.k=5"
    )
    check_result(result, {0})
    assert "4 of 4 questions scored" in result.stdout
    check_folder(out)
    # The same folder for another run, and a file in place of a folder: errors that repeat names and values.
    check_result(
        raggym("eval", world / "Hostile-v0.toml", "--policy", world / "agent.toml", "--out", out, "--seed", 3), {1}
    )
    check_result(raggym("eval", world / "Hostile-v0.toml", "--policy", "lexical", "--out", world / "corpus.jsonl"), {1})
    check_result(raggym("eval", world / "broken.jsonl", "--policy", HOSTILE), {1})
    check_result(raggym("eval", world / "broken.toml", "--policy", "lexical"), {1})
    for setting in (HOSTILE, f"retrieval.name={HOSTILE}", f"{HOSTILE}=1", "dataset.sources=broken"):
        check_result(raggym("eval", world / "Hostile-v0.toml", "--policy", "lexical", "--set", setting), {1})
    monkeypatch.setitem(POLICIES, "reader", Fails)
    result = raggym("eval", world / "Hostile-v0.toml", "--policy", world / "reader.toml", "--out", tmp_path / "failed")
    check_result(result, {1, 2})
    assert "the server said" in result.stderr


def walk_collect(world, tmp_path, monkeypatch):
    options = ["--critic", "random", "--n", "2", "--keep", "all"]
    result = raggym(
        "collect", world / "Hostile-v0.toml", "--policy", world / "agent.toml", *options, "--out", tmp_path / NAME
    )
    check_result(result, {0})
    check_folder(tmp_path / NAME)
    result = raggym("collect", "--inspect", world / "data", "--keep", "all")
    check_result(result, {0})
    assert "Answered" in result.stdout
    check_result(raggym("collect", "--inspect", tmp_path / f"no{NAME}"), {1})
    check_result(raggym("collect", world / "Hostile-v0.toml", "--policy", HOSTILE), {1})


def walk_export(world, tmp_path, monkeypatch):
    for kind in ("reward", "inspect", "trec"):  # without inspect_ai, that it is missing
        check_result(raggym("export", tmp_path / NAME, "--to", kind, "--out", tmp_path / kind), {1})
    out = tmp_path / f"trec {NAME}"
    check_result(raggym("export", world / "run", "--to", "trec", "--out", out), {0})
    check_result(raggym("export", world / "failed", "--to", "trec", "--out", tmp_path / "failed"), {1})
    for file in out.iterdir():
        for line in file.read_bytes().decode("utf-8").splitlines():
            assert len(line.split(" ")) == {"run.txt": 6, "qrels.txt": 4}[file.name]
            assert all(char.isprintable() for char in line)
    if importlib.util.find_spec("inspect_ai"):
        check_result(raggym("export", world / "run", "--to", "inspect", "--out", tmp_path / f"log {NAME}"), {0})
    if pytest.importorskip("datasets"):
        out = tmp_path / f"rows {NAME}"
        result = raggym("export", world / "data", "--to", "reward", "--all", "--margin", "0.001", "--out", out)
        check_result(result, {0, 1})
    for trainer in ("verl", "search-r1", "skyrl"):
        out = tmp_path / f"prompts {NAME} {trainer}"
        command = ["export", world / "Hostile-v0.toml", "--to", trainer, "--out", out]
        check_result(raggym(*command, "--set", f"retrieval.name={VISIBLE}"), {0})
        check_result(raggym(*command), {1})  # written already, with other settings
        for option in ("--split", "--url", "--data-source", "--set"):
            check_result(raggym(*command, option, HOSTILE), {1, 2})
        (prompts,) = out.glob("*.parquet")
        for row in parquet.read_table(prompts).to_pylist():
            check_text("\n".join(message["content"] for message in row["prompt"]), longest=100_000)


def walk_leaderboard(world, tmp_path, monkeypatch):
    sources = [world / "run", world / "failed", world / "predictions.jsonl"]
    options = ["--env", world / "Hostile-v0.toml", "--published", world / "results.toml"]
    result = raggym("leaderboard", *sources, *options)
    check_result(result, {0}, longest=10_000)
    check_board(result.stdout)
    check_result(raggym("leaderboard", *sources, *options, "--json"), {0}, longest=1_000_000)
    check_result(raggym("leaderboard", world / "data"), {1})
    check_result(raggym("leaderboard", tmp_path / NAME), {1})
    check_result(raggym("leaderboard", world / "broken.jsonl", "--env", world / "Hostile-v0.toml"), {1})


def walk_report(world, tmp_path, monkeypatch):
    page = tmp_path / f"{NAME}.html"
    published = ["--published", world / "results.toml"]
    check_result(raggym("report", world / "run", world / "failed", *published, "-o", page), {0})
    check_page(page)
    assert list(tmp_path.iterdir()) == [page]
    check_result(raggym("report", tmp_path / NAME, "--training", tmp_path / NAME), {1})


def walk_compare(world, tmp_path, monkeypatch):
    runs = [world / "run", world / "run"]
    check_result(raggym("compare", *runs, "--flips"), {0})
    check_result(raggym("compare", *runs, "--json"), {0}, longest=1_000_000)
    check_result(raggym("compare", world / "run", tmp_path / NAME), {1})


def walk_show(world, tmp_path, monkeypatch):
    check_result(raggym("show", world / "run"), {0})
    for number in ("1", "2", "3"):
        check_result(raggym("show", world / "run", number, "--prompt"), {0})
    check_result(raggym("show", world / "run", NAME), {1})
    check_result(raggym("show", world / "run", "--grep", HOSTILE), {0})


def walk_watch(world, tmp_path, monkeypatch):
    for name in ("run", "failed"):
        check_result(raggym("watch", world / name), {0})
    check_result(raggym("watch", tmp_path / NAME), {1})
    stopped = shutil.copytree(world / "run", tmp_path / "stopped")
    record = json.loads((stopped / "run.json").read_text())
    record |= {"status": "running", "command": ["raggym", "eval", HOSTILE, LONG]}
    (stopped / "run.json").write_text(json.dumps(record))
    result = raggym("watch", stopped)
    check_result(result, {0})
    assert "To resume it: raggym eval" in result.stdout


def walk_verify(world, tmp_path, monkeypatch):
    check_result(raggym("data", "verify", world / "Hostile-v0.toml"), {0, 1})
    check_result(raggym("data", "verify"), {0, 1})
    check_result(raggym("data", "verify", tmp_path / NAME), {1})
    check_result(raggym("index", "verify"), {0, 1})
    check_result(raggym("index", "verify", tmp_path / NAME), {1})


def walk_serve(world, tmp_path, monkeypatch):
    from raggym_env.retrieval import server

    monkeypatch.setattr(server, "check_installed", lambda: None)
    monkeypatch.setattr(server, "serve", lambda retriever, listener, options, *, ready: ready(f"http://{HOSTILE}"))
    result = raggym("serve", world / "Hostile-v0.toml", "--port", 0)
    check_result(result, {0})
    assert "Serving bm25 over 5 passages" in result.stdout
    check_result(raggym("serve", "--corpus", world / "broken.jsonl", "--port", 0), {1})
    check_result(raggym("serve", "--corpus", world / "corpus.jsonl", "--host", HOSTILE.replace("\x00", "")), {1})
    check_result(raggym("serve", world / "Hostile-v0.toml", "--token-file", tmp_path / NAME), {1})

    def serve(service, listener, *, ready, web=False):
        service.close()
        ready(f"http://{HOSTILE}")

    framework = SimpleNamespace(serve_openenv=serve, serve_mcp=serve)
    for kind in ("openenv", "mcp"):
        monkeypatch.setitem(sys.modules, f"raggym_env.integrations.{kind}", framework)
        check_result(raggym("serve", world / "Hostile-v0.toml", "--port", 0, f"--{kind}"), {0})
    check_result(raggym("serve", "--corpus", world / "broken.jsonl", "--port", 0, "--mcp"), {1})


def walk_data(world, tmp_path, monkeypatch):
    card = env_card(world / "Hostile-v0.toml")
    monkeypatch.setattr(catalogue, "shipped_cards", lambda: [card])
    check_result(raggym("data", "list"), {0})
    check_result(raggym("data", "list", "--json"), {0}, longest=20_000)
    for command in ("info", "get"):
        result = raggym("data", command, world / "Hostile-v0.toml")
        check_result(result, {0, 1})
        assert "train" in result.stdout
        check_result(raggym("data", command, world / "Hostile-v0.toml", "--json"), {0, 1}, longest=1_000_000)
        check_result(raggym("data", command, HOSTILE), {1})
        check_result(raggym("data", command, world / "broken.toml"), {1})


def walk_models(world, tmp_path, monkeypatch):
    check_result(raggym("models", "get", HOSTILE), {1})
    check_result(raggym("models", "get", "smollm2", "--source", HOSTILE), {1})
    status = SimpleNamespace(name="m", title=HOSTILE, licence=HOSTILE, megabytes=None, source=HOSTILE, folder=HUGE)
    monkeypatch.setattr("raggym_env.models.catalogue.statuses", lambda: [status])
    monkeypatch.setattr("raggym_env.models.get.get", lambda name, sources: Path(NAME))
    check_result(raggym("models", "list"), {0})
    check_result(raggym("models", "get", "m"), {0})


TRAINERS = ("sft", "dpo", "prm", "grpo", "episodes", "mini")


def walk_train(world, tmp_path, monkeypatch):
    # The trainers themselves need torch; what is walked is what the command prints before, during and after.
    def trainer(data, out, *, progress, **options):
        if not Path(data[0] if isinstance(data, list) else data).exists():
            raise RunError(f"{data} holds no process data.")
        for stage in ("before", "train"):
            progress(stage, 1, 2, {"loss": 0.5, HOSTILE: 1.0})
        log = [{"loss": 1.0}, {"loss": 0.5}]
        scores = {"before": {"scores": {HOSTILE: (0.5, 0.4, 0.6)}}}
        report = {"rows": {HOSTILE: 3}, "log": log, "steps": 2, "result": f"{out} {HOSTILE}", **scores}
        held_out = {"agreement": 0.5}
        return Report(report=report, states=3, candidates=4, held_out=held_out)

    class Report(dict):
        __getattr__ = dict.__getitem__

    fakes = {f"train_{kind}": trainer for kind in TRAINERS}
    names = ("TrainingConfig", "EvalSpec", "PairConfig", "ReplyConfig", "StepRewardConfig", "MiniConfig")
    fakes |= dict.fromkeys(names, SimpleNamespaceClass)
    for name, fake in fakes.items():
        monkeypatch.setitem(vars(raggym_env.training), name, fake)
    for kind in TRAINERS:
        check_result(raggym("train", kind, world / "data", "--out", tmp_path / NAME), {0})
        check_result(raggym("train", kind, world / f"no {NAME}", "--out", tmp_path / "out"), {1})


class SimpleNamespaceClass(SimpleNamespace):
    def __init__(self, *arguments, **options):
        super().__init__(**options)

    @classmethod
    def from_settings(cls, settings):
        return cls()


WALKS = {
    **dict.fromkeys(("envs", "policies"), walk_envs),
    **dict.fromkeys(("rewards", "retrievers"), walk_plugins),
    **dict.fromkeys(("card keys", "card show"), walk_card),
    "play": walk_play,
    "eval": walk_eval,
    "collect": walk_collect,
    "export": walk_export,
    "leaderboard": walk_leaderboard,
    "compare": walk_compare,
    "report": walk_report,
    "watch": walk_watch,
    "show": walk_show,
    "serve": walk_serve,
    **dict.fromkeys(("data list", "data info", "data get"), walk_data),
    "data verify": walk_verify,
    "index verify": walk_verify,
    **dict.fromkeys(("models list", "models get"), walk_models),
    **dict.fromkeys((f"train {kind}" for kind in TRAINERS), walk_train),
}


def commands(command, prefix=""):
    """The names of all commands, those of groups as `data list`."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from (
            commands(inner, f"{prefix} {name}".strip()) if hasattr(inner, "commands") else [f"{prefix} {name}".strip()]
        )


def test_every_command_is_walked():
    assert set(commands(get_command(app))) == set(WALKS)


@pytest.mark.parametrize("walk", dict.fromkeys(WALKS.values()), ids=lambda walk: walk.__name__.removeprefix("walk_"))
def test_nothing_of_a_hostile_world_reaches_the_terminal_or_a_file_raw(walk, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk(world, tmp_path, monkeypatch)


@pytest.mark.parametrize("command", sorted(WALKS))
def test_errors_about_the_command_line_repeat_no_argument_raw(command):
    for argument in (HOSTILE, f"--{HOSTILE}", f"--limit={HOSTILE}", f"--port={HOSTILE}"):
        check_result(raggym(*command.split(), argument, HOSTILE, HOSTILE), {1, 2})
    check_result(raggym(HOSTILE), {2})
    check_result(raggym(f"--{HOSTILE}"), {2})


# -- as a process of its own --------------------------------------------------------------------------------------

BUGGY = """
import logging, sys, threading, warnings
from raggym_env.cli import app
text = sys.stdin.read()
@app.command()
def bug():
    logging.getLogger("somebody").warning("log %s", text)
    warnings.warn(f"warn {text}")
    raise ValueError(f"error {text}")
app(["bug"])
"""


def process(*command, text="", **environment):
    result = subprocess.run(command, input=text.encode(), capture_output=True, env=os.environ | environment)
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def test_logs_warnings_and_the_traceback_of_a_bug_are_cleaned_in_the_command():
    code, _, stderr = process(sys.executable, "-c", BUGGY, text=HOSTILE, PYTHONUTF8="1")
    assert code == 1
    messages, _, error = stderr.partition("Traceback")
    check_text(messages)
    check_text(re.sub("(?m)^.*forged", "", error))  # whose lines are those of the exception
    for part in ("log ]0;title", "warn ]0;title", "Traceback", "ValueError: error ]0;title"):
        assert part in stderr


BUGGY_POLICY = """
from pathlib import Path
class Bug:
    def propose(self, states, n=1):
        for state in states:
            if "Town2" in state.question.text:
                self.inner(state)
        return [[] for _ in states]
    def inner(self, state):
        raise KeyError(Path("text").read_text())
"""


def test_a_bug_in_a_users_class_shows_the_users_frames_and_the_question(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "buggy.py").write_text(BUGGY_POLICY)
    (tmp_path / "text").write_text(HOSTILE.replace("\ud800", ""), encoding="utf-8", newline="")
    command = [sys.executable, "-m", "raggym_env", "eval", str(world / "Hostile-v0.toml"), "--policy", "buggy:Bug"]
    code, _, stderr = process(*command, PYTHONUTF8="1")
    assert code == 1
    check_text(stderr)
    assert [line.rpartition(" ")[2] for line in stderr.splitlines() if line.startswith("  File ")] == [
        "propose",
        "inner",
    ]
    assert re.search(r"(?m)^KeyError: .*title", stderr)
    assert re.search(r"(?m)^In the question 'q2 ", stderr)
    assert "RAGGYM_TRACEBACK=1 in the environment shows all." in stderr
    code, _, whole = process(*command, PYTHONUTF8="1", RAGGYM_TRACEBACK="1")
    assert code == 1
    assert whole.count("  File ") > 10
    assert "left out" not in whole


def test_a_terminal_that_lacks_a_letter_gets_a_question_mark_and_no_traceback(world):
    card = str(world / "Hostile-v0.toml")
    command = [sys.executable, "-m", "raggym_env", "play", card, "--index", "0"]
    code, stdout, stderr = process(*command, text="Tromsø\n=Ålesund\n", PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert (code, "Search 1: Troms" in stdout, "Traceback" in stderr) == (0, True, False), stderr[-500:]
