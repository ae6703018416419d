"""Use the environments in other trainers and evaluation frameworks: one module per framework."""
