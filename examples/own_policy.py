"""A policy of your own: any class with `propose(states, n)`; `BasePolicy` adds `act`.

It reads a state (question, past searches with their passages, searches left) and returns actions, one for each state.
A policy never sees a gold answer.
"""

from raggym_env import Answer, Search
from raggym_env.evaluation import evaluate
from raggym_env.protocols import BasePolicy


class TwoHops(BasePolicy):
    """Searches for the question, then for the best passage's title, then answers with the title found next."""

    fingerprint = "two-hops-1"  # change it with the code: runs of different code are then told apart and can be resumed

    def propose(self, states, n=1):
        return [self.choose(state) for state in states]

    def choose(self, state):
        if not state.history:
            return Search(state.question.text)
        titles = list(dict.fromkeys(passage.title for passage in state.passages))  # in order, each one once
        if len(state.history) == 1 and titles and state.searches_left:
            return Search(titles[0])
        return Answer(titles[-1] if titles else "unknown")


run, scores = evaluate("RAGGym-Synth-v0", TwoHops(), limit=100)
print(f"TwoHops: EM {scores.metrics['em'].mean:.3f}, gold passages found {scores.metrics['recall'].mean:.3f}")
print(f"run folder: {run.path}")
