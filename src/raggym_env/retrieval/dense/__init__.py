"""Sentence encoders, FAISS indexes and cross-encoder reranking."""
