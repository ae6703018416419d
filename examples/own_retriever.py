"""A retriever of your own: any class with `search(queries, k)`, made with the corpus.

On the command line it is named by its module: `raggym eval RAGGym-Synth-v0 --policy lexical --set
retrieval.name=own_retriever:TitleOverlap`.
"""

import gymnasium as gym

from raggym_env import policies  # importing the package registers the ids
from raggym_env.protocols import Hit


class TitleOverlap:
    """Ranks passages by the number of words that the query shares with their titles."""

    def __init__(self, corpus):
        self.passages = list(corpus)
        self.by_word = {}
        for position, passage in enumerate(self.passages):
            for word in set(passage.title.lower().split()):
                self.by_word.setdefault(word, []).append(position)

    def search(self, queries, k):
        return [self.search_one(query, k) for query in queries]

    def search_one(self, query, k):
        shared = {}
        for word in set(query.lower().rstrip("?").split()):
            for position in self.by_word.get(word, ()):
                shared[position] = shared.get(position, 0) + 1
        best = sorted(shared, key=lambda position: (-shared[position], position))[:k]  # ties keep the corpus's order
        return [Hit(self.passages[position], float(shared[position])) for position in best]


env = gym.make("RAGGym-Synth-v0", retriever=TitleOverlap, k=3)
policy = policies.make("lexical")
obs, info = env.reset(seed=1)
print(obs["question"])
ended = False
while not ended:
    action = policy.act(obs)
    obs, reward, terminated, truncated, info = env.step(action)
    ended = terminated or truncated
    print(action, [passage.title for passage in obs["history"][-1].passages] if not ended else reward)
