"""The decision process: dynamics, metrics, step rewards, episode records and the one episode loop."""
