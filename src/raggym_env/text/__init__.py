"""Text shown to models and read back, made safe."""
