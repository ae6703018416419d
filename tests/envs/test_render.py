"""What a person sees of an episode."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Passage, Question, State, StopReason, Turn
from raggym_env.envs.render import render_episode
from raggym_env.mdp.step_reward import Reward

TEXTS = st.text(
    st.characters(codec=None) | st.sampled_from("\x1b\x9b\r\n\x85\u2028\u202e\U000e0041\u200b"), max_size=40
)


def state(text, **rest):
    passages = (Passage("1", text, text), Passage("2", f"{text}T", text))
    return State(Question("q", text, (text, "B")), (Turn(text, passages), Turn(text, ())), **rest)


@given(TEXTS)
def test_no_text_of_an_episode_can_drive_the_terminal_or_forge_a_line(text):
    ended = state(text, answer=text, stop=StopReason.ANSWER)
    shown = render_episode(ended, [Reward(1.0, 1.0, 0.0)] * 3)
    assert {unicodedata.category(char) for char in shown.replace("\n", "")} & {"Cc", "Cs", "Zl", "Zp"} == set()
    assert "\u202e" not in shown
    # Whatever the texts are, only the renderer begins a block at the left margin; the rest is indented.
    heads = [line.split()[0] for line in shown.split("\n") if line[:1].strip()]
    assert heads == ["Question:", "Search", "Search", "Ended"]


def test_a_title_of_three_megabytes_fills_neither_a_line_nor_the_screen():
    shown = render_episode(state("x" * 3_000_000, answer="y " * 1_500_000, stop=StopReason.ANSWER))
    assert max(map(len, shown.split("\n"))) <= 120  # the reward stands behind the last line of a step
    assert len(shown) < 80_000


def test_a_long_question_is_shown_whole():
    text = " ".join(f"word{number}" for number in range(1_000))
    assert "word999" in render_episode(state(text))
