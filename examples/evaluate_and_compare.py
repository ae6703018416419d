"""Evaluate two policies on the same questions, and ask whether one is better: paired, with an interval.

The same from the command line:

    raggym eval RAGGym-Synth-v0 --policy single_search --limit 150
    raggym eval RAGGym-Synth-v0 --policy lexical --limit 150
    raggym compare runs/FIRST runs/SECOND
    raggym report runs/*
"""

from raggym_env.evaluation import build_leaderboard, compare, evaluate, write_report

runs = []
for policy in ("single_search", "lexical"):
    run, scores = evaluate("RAGGym-Synth-v0", policy, limit=150)  # a run folder below runs/, resumed if interrupted
    runs.append(run.path)

board = build_leaderboard(runs)  # scores are computed again from the recorded answers
print(board.to_markdown())

(comparison,) = compare(runs)
em = comparison.main
print(f"\n{comparison.second} against {comparison.first}, {comparison.questions} questions:")
print(f"EM {em.difference.mean:+.3f} [{em.difference.low:+.3f}, {em.difference.high:+.3f}], p = {em.p_value:.4f}")
print(f"{em.wins} better, {em.ties} equal, {em.losses} worse; the first of the better ones: {comparison.won[:3]}")

print(f"\nReport page: {write_report(board, 'report.html')}")
