"""The sentences of passages that matter for a question, within a number of characters."""

from hypothesis import given
from hypothesis import strategies as st

from raggym_env.core import Passage
from raggym_env.reading.snippets import snippets

QUESTION = "Where was the director of Dawn born?"
FILM = Passage(
    "1", "Dawn", "Dawn is a film. It was shown in many towns. It was directed by Ada Berg. Its budget was small."
)
PERSON = Passage(
    "2", "Ada Berg", "Ada Berg is a painter. She likes long walks by the sea. She was born in Oslo in 1960."
)
OTHER = Passage("3", "Rain", "Rain falls from clouds, often for hours. Snow is colder, and falls more slowly.")


def test_everything_is_shown_where_there_is_room():
    passages = [FILM, PERSON, OTHER]
    assert snippets(QUESTION, [], passages, passage_chars=500, room=2_000) == [passage.text for passage in passages]


def test_the_sentences_that_matter_come_before_the_start_of_a_passage():
    film, person, other = snippets(QUESTION, ["Ada Berg"], [FILM, PERSON, OTHER], passage_chars=70, room=140)
    assert "directed by Ada Berg" in film
    assert "born in Oslo" in person
    assert other == ""


def test_a_gap_between_two_sentences_is_marked_and_their_order_stays():
    film = snippets(QUESTION, [], [FILM], passage_chars=60, room=60)[0]
    assert film == "Dawn is a film. … It was directed by Ada Berg."


def test_the_terms_of_a_query_count_like_those_of_the_question():
    person = snippets("Who?", ["walks by the sea"], [PERSON], passage_chars=45, room=45)[0]
    assert person == "… She likes long walks by the sea."


def test_a_sentence_that_is_cut_ends_at_a_word():
    long = Passage("1", "Dawn", "Dawn was directed by Ada Berg and " + "very " * 50 + "well received.")
    text = snippets(QUESTION, [], [long], passage_chars=80, room=500)[0]
    assert len(text) <= 80
    assert text.endswith(" very…")


def test_without_room_nothing_is_shown():
    assert snippets(QUESTION, [], [FILM, PERSON], passage_chars=100, room=0) == ["", ""]
    assert snippets(QUESTION, [], [], passage_chars=100, room=100) == []


TEXT = st.text(st.sampled_from('abc ABC.!?…\n"(é1'), max_size=300)


@given(st.lists(TEXT, max_size=5), st.integers(1, 200), st.integers(-10, 600), TEXT)
def test_the_limits_hold_whatever_the_texts_are(texts, passage_chars, room, question):
    passages = [Passage(str(number), f"T{number}", text) for number, text in enumerate(texts)]
    shown = snippets(question, [question], passages, passage_chars=passage_chars, room=room)
    assert len(shown) == len(passages)
    assert all(len(text) <= passage_chars for text in shown)
    assert sum(map(len, shown)) <= max(0, room)
