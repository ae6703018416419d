"""Data sets in their official formats, corpora, and the places where both are searched for."""

from raggym_env.data.corpus import Corpus, write_corpus
from raggym_env.data.dataset import Dataset, TaskSet, load, load_tasks, tasks_fingerprint
from raggym_env.data.formats import read_tasks
from raggym_env.data.passages import read_passages
from raggym_env.data.prepare import prepare_corpus

__all__ = [
    "Corpus",
    "Dataset",
    "TaskSet",
    "load",
    "load_tasks",
    "prepare_corpus",
    "read_passages",
    "read_tasks",
    "tasks_fingerprint",
    "write_corpus",
]
