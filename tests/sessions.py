"""Worlds for the tests of sessions, and of the servers that hold them."""

from __future__ import annotations

import threading

from raggym_env.core import Answer, Passage, Question, Search, Task
from raggym_env.envs.episodes import Episodes
from raggym_env.errors import RetrievalError
from raggym_env.mdp.dynamics import Dynamics
from raggym_env.protocols import Hit


class Engine:
    """A search engine that counts its calls, waits for a gate, and rejects some queries."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.calls = []
        self.secret = ""

    def search(self, queries, k):
        self.calls.append(list(queries))
        self.gate.wait(20)
        if any("reject" in query for query in queries):
            raise RetrievalError(f"rejected {self.secret}")
        if any("exit" in query for query in queries):
            raise SystemExit
        return [[Hit(Passage(query, f"Title of {query}", "text"), 1.0)] for query in queries]


def small_world(engine, tasks=4):
    tasks = [Task(Question(f"q{number}", f"Question {number}?"), (f"answer {number}",)) for number in range(tasks)]
    return Episodes(tasks, Dynamics(engine, k=1, max_searches=3))


def gold_steps(world, row):
    """Two searches for what the question asks and the gold answer: some steps of every kind."""
    task = world.tasks[row]
    return [Search(task.question.text), Search(task.gold_titles[-1]), Answer(task.answers[0])]


def played(env, world, row):
    """Play the gold steps of a row. Yields each, its reward with both parts and the end, and the observation."""
    env.reset(options={"index": row})
    for step in gold_steps(world, row):
        obs, reward, terminated, truncated, info = env.step(step)
        yield step, (reward, info["outcome_reward"], info["process_reward"], terminated or truncated), obs
