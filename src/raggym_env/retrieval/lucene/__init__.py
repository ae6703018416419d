"""Lucene through Pyserini's jar."""
