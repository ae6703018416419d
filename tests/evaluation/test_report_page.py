"""A report in a real browser: Chromium, without a window, driven by Playwright.

Skipped where there is no Chromium (Debian: `apt-get install chromium`). The times are printed, not asserted.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from raggym_env.core import Answer, Search
from raggym_env.evaluation import build_leaderboard, evaluate, write_report
from raggym_env.protocols import Proposal
from towns import Reader, write_jsonl, write_towns

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
MARKUP = "<script>window.hacked = 1</script><img src=x onerror=window.hacked=1>"
ESCAPES = "\x1b[31mred\x1b[0m | [a](javascript:window.hacked=1) **bold** `x`"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Returns a function that opens a page at a hash. At the end no page may have reported an error."""
    errors, contexts = [], []

    def open_page(path, fragment="", *, scheme="light", width=1280):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("html[data-ready=true]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="module")
def synth(tmp_path_factory):
    """The report of five runs on the generated world; the last is of a language model, on 200 of the questions."""
    folder = tmp_path_factory.mktemp("synth")
    options = {"best8": {"search": {"best_of": 8, "critic": "mini"}}}
    runs = []
    for name in ("random", "single_search", "lexical", "best8"):
        policy = "lexical" if name == "best8" else name
        changes = {f"policy.search.{key}": value for key, value in options.get(name, {}).get("search", {}).items()}
        run, _ = evaluate("RAGGym-Synth-v0", policy, limit=1000, out=folder / name, settings=changes)
        runs.append(run.path)
    rules = folder / "script.jsonl"
    write_jsonl(
        rules,
        [
            {"pattern": "<passages", "reply": 'I read the passages.\n{"answer": "Oslo"}'},
            {"pattern": "<question>", "reply": 'First a search.\n{"search": "the capital"}'},
        ],
    )
    settings = {"policy.options.llm": f"scripted:{rules}"}
    run, _ = evaluate("RAGGym-Synth-v0", "react", limit=200, out=folder / "model", settings=settings)
    return write_report(build_leaderboard([*runs, run.path]), folder / "report.html")


class Hostile(Reader):
    """Searches, answers and writes markup."""

    name = MARKUP

    def _proposal(self, state):
        action = Answer(ESCAPES) if state.history else Search(f"Town1 {MARKUP}")
        return Proposal(action, text=f"{ESCAPES}\n{MARKUP}")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    card = write_towns(folder / "towns")
    passages = [{"id": MARKUP, "title": f"Town1 {MARKUP}", "text": f"Town1 {MARKUP} {ESCAPES} on the River1."}]
    questions = [
        {"id": MARKUP, "question": f"Town1? {MARKUP}", "golden_answers": [MARKUP], "metadata": {MARKUP: MARKUP}}
    ]
    write_jsonl(folder / "towns" / "corpus.jsonl", passages)
    write_jsonl(folder / "towns" / "questions.jsonl", questions)
    runs = [evaluate(card, policy, out=folder / name)[0].path for name, policy in (("a", Hostile()), ("b", Reader()))]
    return write_report(build_leaderboard(runs), folder / "report.html")


def timed(action):
    start = time.perf_counter()
    action()
    return f"{(time.perf_counter() - start) * 1000:.0f} ms"


def shown(page):
    return page.locator("[role=status]").inner_text()


def test_a_report_of_thousands_of_questions_is_sorted_filtered_and_searched(synth, open_page, capsys):
    size = synth.stat().st_size / 1e6
    assert size < 15
    pages = []
    first = timed(lambda: pages.append(open_page(synth, "#/1/leaderboard")))
    page = pages[0]
    names = [cell.split("\n")[0] for cell in page.locator(".tabulator-row .policy").all_inner_texts()]
    assert names == ["lexical (best of 8, critic mini)", "lexical", "single_search", "random"]
    page.goto(synth.as_uri() + "#/1/questions?a=lexical&b=best8")
    page.wait_for_selector(".tabulator-row")
    assert shown(page) == "1,000 of 1,000 questions"
    sort = timed(lambda: (page.get_by_role("columnheader", name="Answer").click(), page.wait_for_timeout(0)))
    narrow = timed(lambda: page.get_by_label("Result").select_option("right"))
    right = int(shown(page).split()[0].replace(",", ""))
    assert 0 < right < 1000
    page.get_by_label("Result").select_option("")
    page.get_by_label("Difference").select_option("won")
    assert 0 < int(shown(page).split()[0]) < 1000 - right
    page.get_by_label("Difference").select_option("")
    search = timed(lambda: page.get_by_label("Text").fill("landmark"))
    hits = int(shown(page).split()[0].replace(",", ""))
    assert 0 < hits < 1000
    with capsys.disabled():
        print(f"\nreport: {size:.1f} MB; first use {first}, sort {sort}, filter {narrow}, search {search}")


def test_an_episode_has_a_link_and_is_stepped_through_by_keyboard(synth, open_page):
    page = open_page(synth, "#/1/episode/best8/synth-test-000012/2")
    assert "How many people" in page.locator("h2").inner_text()
    assert page.locator(".step.current").get_attribute("id") == "step-2"
    page.keyboard.press("ArrowRight")
    assert page.locator(".step.current").get_attribute("id") == "step-3"
    assert page.url.endswith("/3")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("j")
    page.wait_for_function("location.hash.includes('synth-test-000013')")
    page.keyboard.press("k")
    page.wait_for_function("location.hash.includes('synth-test-000012')")
    page.locator(".step summary", has_text="candidates").first.click()
    assert page.locator(".step .chosen").first.is_visible()
    passage = page.locator(".passages details").first
    passage.locator("summary").click()
    assert len(passage.locator(".text").inner_text()) > 40
    page.keyboard.press("Escape")
    page.wait_for_selector("#questions-table .tabulator-row")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text-filter"


def test_what_a_model_wrote_is_shown(synth, open_page):
    page = open_page(synth, "#/1/plots")
    page.get_by_label("Environment").select_option(label="RAGGym-Synth-v0, test, 200 questions")
    page.goto(synth.as_uri() + "#/0/episode/model/synth-test-000012/1")
    page.get_by_text("What the model wrote").first.click()
    assert "First a search." in page.locator("pre.raw").first.inner_text()


@pytest.mark.parametrize("view", ["leaderboard", "plots", "questions", "episode/a/ID/1"])
def test_hostile_text_stays_text(hostile, open_page, view):
    fragment = f"#/0/{view}".replace("ID", quote(MARKUP, safe=""))
    page = open_page(hostile, fragment)
    page.wait_for_timeout(100)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0
    if view.startswith("episode"):
        assert MARKUP in page.locator("h2").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["leaderboard", "plots", "questions", "episode/best8/synth-test-000012/1"])
def test_axe_finds_no_serious_fault(synth, open_page, view, scheme):
    page = open_page(synth, f"#/1/{view}", scheme=scheme)
    page.wait_for_timeout(300)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then((results) => results.violations)")
    serious = [
        (fault["id"], [node["html"][:200] for node in fault["nodes"][:3]])
        for fault in violations
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("view", ["leaderboard", "plots", "questions", "episode/best8/synth-test-000012/1"])
def test_a_phone_shows_every_view_without_sideways_scrolling(synth, open_page, view):
    page = open_page(synth, f"#/1/{view}", width=390)
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
