"""Episodes on Ray workers."""
