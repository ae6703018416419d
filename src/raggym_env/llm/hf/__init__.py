"""The `hf:` back end: transformers models in this process."""
