"""What the README shows is run or checked."""

import re
from pathlib import Path

import pytest

from code_blocks import blocks, check_command, commands, run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURES = ("docs/pictures/report-leaderboard.png", "docs/pictures/report-episode.png")


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks(README, "python"), ids=lambda block: f"line {block.line}")
def test_python_blocks_run_as_they_stand(block, tmp_path):
    run(["python", "-W", "error", "-c", block.code], tmp_path)


@pytest.mark.parametrize("block", blocks(README, "console"), ids=lambda block: f"line {block.line}")
def test_console_blocks_name_commands_and_options_that_exist(block):
    for words in commands(block):
        check_command(words)


@pytest.mark.slow
def test_the_commands_that_evaluate_and_compare_work_from_top_to_bottom(tmp_path):
    (block,) = [block for block in blocks(README, "console") if "raggym compare" in block.code]
    for words in commands(block):
        words = [word.replace("HotpotQA", "Synth") for word in words]
        run([*words, "--limit", "10"] if words[1] == "eval" else words, tmp_path)
    assert (tmp_path / "report.html").exists()


def test_every_link_leads_to_a_file():
    targets = re.findall(r'\]\(([^)#]+)\)|(?:src|srcset)="([^"]+)"', README)
    files = [a or b for a, b in targets if not (a or b).startswith("https://")]
    assert len(files) > 15
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_it_takes_ten_minutes_to_read():
    assert README.count("\n") <= 180
    assert sum((ROOT / picture).stat().st_size for picture in PICTURES) < 400_000
