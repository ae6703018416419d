"""LoRA adapters for raggym-env, one folder each. The code is empty: `hf:MODEL+NAME` finds the folders by location."""
