"""Outgoing connections: which URLs and keys are accepted, the one kind of HTTP client, and the Hugging Face hub."""
