"""`hf:`: transformers models in this process."""
