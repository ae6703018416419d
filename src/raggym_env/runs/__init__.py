"""Run folders: a policy's episodes on a split, resumable."""
