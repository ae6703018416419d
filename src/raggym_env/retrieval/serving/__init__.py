"""The parts of `raggym_env.retrieval.server`: the wire format, micro-batching, metrics and the application."""
