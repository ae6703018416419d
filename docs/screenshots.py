"""Take the pictures of a report that README and docs show: `make demo`, then

    python docs/screenshots.py runs/demo

It needs Chromium (Debian: `apt-get install chromium`), Playwright and Pillow.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
QUESTION = "synth-test-000050"
VIEWS = {
    "report-leaderboard": ("#/1/leaderboard", 760),
    "report-episode": (f"#/1/episode/{quote('lexical_best_of_8')}/{QUESTION}/2", 1180),
}
"""Name of the picture: the view's link, and the height in pixels."""


def save(page: Page, path: Path) -> None:
    """Save what the page shows, with 128 colors: a third of the size, and no difference to see."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


def main(folder: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(device_scale_factor=2, color_scheme="light", offline=True)
        for name, (view, height) in VIEWS.items():
            page = context.new_page()
            page.set_viewport_size({"width": 1100, "height": height})
            page.goto((folder / "report.html").resolve().as_uri() + view)
            page.wait_for_selector("html[data-ready=true]")
            page.wait_for_timeout(500)  # for the plots
            save(page, PICTURES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
