"""Take the pictures of a report that README and docs show: `make demo`, then

    python docs/screenshots.py runs/demo

It needs Chromium (Debian: `apt-get install chromium`), Playwright and Pillow.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent / "pictures"
QUESTION = "synth-test-000050"


def show_leaderboard(page: Page) -> None:
    """Show what the critic gained, below the leaderboard."""
    first, second = page.get_by_label("Paired difference").locator("select").all()
    first.select_option("lexical")
    second.select_option("lexical_best_of_8")


def show_episode(page: Page) -> None:
    """Open the gold passage of the second step, and the candidates of the last."""
    page.locator("#step-2 summary").first.click()
    page.locator("#step-3 summary").last.click()


VIEWS = {
    "leaderboard": ("#/1/leaderboard", show_leaderboard, 1010),
    "episode": (f"#/1/episode/lexical_best_of_8/{QUESTION}/2", show_episode, 1400),
}
"""The link of a view, what to do there, and the height of the picture."""


def save(page: Page, path: Path) -> None:
    """Save what the page shows in 128 colors, which look the same in a third of the bytes."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


def main(folder: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = browser.new_context(device_scale_factor=2, color_scheme="light", offline=True)
        for name, (view, prepare, height) in VIEWS.items():
            page = context.new_page()
            page.set_viewport_size({"width": 1100, "height": height})
            page.goto((folder / "report.html").resolve().as_uri() + view)
            page.wait_for_selector("html[data-ready=true]")
            prepare(page)
            page.mouse.move(0, 0)
            page.evaluate("scrollTo(0, 0)")
            page.wait_for_timeout(500)
            save(page, PICTURES / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
