"""Inference-time search: the score over the number of candidates among which the critic `mini` chooses.

n = 1 is the policy by itself. The questions are from the test split, on which `mini` was not trained.
"""

from raggym_env.evaluation import evaluate

print("  n   EM [95 %]              gold passages found")
for n in (1, 2, 4, 8):
    settings = {"policy.search.best_of": n, "policy.search.critic": "mini"}
    _, scores = evaluate("RAGGym-Synth-v0", "lexical", limit=60, settings=settings)
    em, recall = scores.metrics["em"], scores.metrics["recall"]
    print(f"{n:3}   {em.mean:.3f} [{em.low:.3f}, {em.high:.3f}]   {recall.mean:.3f}")
