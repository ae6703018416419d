"""`raggym serve`: any retriever over HTTP."""
