"""BM25 over memory-mapped files."""
