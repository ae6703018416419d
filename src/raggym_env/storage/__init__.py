"""Files on disk: paths, atomic writes, resumable output folders, and a bounded cache."""
