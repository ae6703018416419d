"""Signals that end a command. Each test signals a process of its own: one that is not handled would end the tests'."""

import json
import os
import subprocess
import sys
from pathlib import Path

from towns import write_towns

# What every program here begins with. A process of tests may have other handlers, and a job in the background none.
START = """
import contextlib, json, os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typer.testing import CliRunner
from raggym_env.cli import app
from raggym_env.cli._signals import signals_raised
from raggym_env.policies.lexical import LexicalPolicy

ENDING = (signal.SIGTERM, signal.SIGHUP)
for number in ENDING:
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def run(program: str, *arguments: object) -> object:
    """Run a program that prints one JSON value, and return the value."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", START + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_signal_ends_a_command_as_ctrl_c_does_and_leaves_the_handlers_as_they_were(tmp_path):
    program = """
card, out, results = sys.argv[1], Path(sys.argv[2]), {}

def interrupt(policy, states, n):
    os.kill(os.getpid(), sent)
    time.sleep(10)  # until the signal arrives

LexicalPolicy.propose = interrupt
for command in ("eval", "collect"):
    for sent in (*ENDING, signal.SIGINT):
        name = f"{command} {sent.name}"
        done = CliRunner().invoke(app, [command, card, "--policy", "lexical", "--out", str(out / name)])
        restored = [signal.getsignal(number) for number in ENDING] == [signal.SIG_DFL] * 2
        results[name] = [done.exit_code, restored, done.stderr]
print(json.dumps(results))
"""
    results = run(program, write_towns(tmp_path / "towns"), tmp_path)
    codes = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
    assert {name: code for name, (code, _, _) in results.items()} == {
        f"{command} {name}": code for command in ("eval", "collect") for name, code in codes.items()
    }
    for _, restored, stderr in results.values():
        assert restored
        assert "raggym: interrupted. Finished work is kept; the same command resumes." in stderr


def test_a_signal_that_is_ignored_stays_ignored():
    program = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
with signals_raised():
    os.kill(os.getpid(), signal.SIGHUP)
    print(json.dumps(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN))
"""
    assert run(program) is True


def test_a_forked_child_dies_of_the_signal_as_without_a_handler():
    program = """
with signals_raised():
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        os._exit(99)
    print(json.dumps(os.waitpid(child, 0)[1] == signal.SIGTERM))
"""
    assert run(program) is True


def test_outside_the_main_thread_nothing_is_installed():
    program = """
def check():
    with signals_raised():
        return signal.getsignal(signal.SIGTERM)

with ThreadPoolExecutor(1) as pool:
    print(json.dumps(pool.submit(check).result() is signal.SIG_DFL))
"""
    assert run(program) is True
