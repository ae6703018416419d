"""What somebody does who wants a changed file to be read: to write its checksum too."""

from __future__ import annotations

import json
from pathlib import Path

from raggym_env.storage.checksums import checksums


def sign(folder: Path) -> None:
    """Write the checksums of the present files of an index or a corpus into its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = checksums(folder, manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
