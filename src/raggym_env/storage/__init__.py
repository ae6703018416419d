"""Files on disk: where they lie, and resumable output folders."""
