"""A generated fictional encyclopedia and endless multi-hop questions over it. Needs no download."""

from raggym_env.data.synth.questions import generate_tasks
from raggym_env.data.synth.world import GENERATOR, SynthWorld

__all__ = ["GENERATOR", "SynthWorld", "generate_tasks"]
