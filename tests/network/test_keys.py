import base64
import copy
import html
import json
import pickle
import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raggym_env.errors import OptionError
from raggym_env.network.keys import KEY_ENVS, Key, check_key_env, read_key

SECRET = "sk-very/secret+0123456789"  # noqa: S105  # nobody's
KEYS = st.text(alphabet=string.ascii_letters + string.digits + string.punctuation, min_size=8, max_size=60)


@pytest.mark.parametrize(
    "value",
    [
        "secret\n",
        "\nsecret",
        "sec\nret",
        "sec\r\nret",
        " secret",
        "secret ",
        "sec ret",
        "sécret",
        "secret\t",
        "secret\x00",
        "\u200bsecret",
        "secret\u2028",
        "secret\x7f",
        "“secret”",
        "\ufeffsecret",
    ],
)
def test_a_key_that_no_header_can_have_is_refused_without_repeating_it(value, monkeypatch):
    if "\0" not in value:  # which no variable can hold
        monkeypatch.setenv("RAGGYM_KEY", value)
    else:
        monkeypatch.setattr("os.environ", {"RAGGYM_KEY": value})
    with pytest.raises(OptionError, match=r"\$RAGGYM_KEY .* line break") as caught:
        read_key("RAGGYM_KEY")
    assert "ret" not in str(caught.value).replace("return", "")
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_key_is_read_from_its_variable(monkeypatch):
    monkeypatch.setenv("RAGGYM_KEY", SECRET)
    assert read_key("RAGGYM_KEY").headers == {"Authorization": f"Bearer {SECRET}"}
    monkeypatch.setenv("RAGGYM_KEY", "")
    for variable in ("RAGGYM_KEY", "RAGGYM_OTHER_KEY", None):
        key = read_key(variable)
        assert (bool(key), key.headers) == (False, {})
        assert key.masked("any text") == "any text"


def test_a_key_is_not_shown_and_not_stored():
    key = Key("RAGGYM_KEY", SECRET)
    assert SECRET not in repr(key) + str(key) + f"{key}"
    assert SECRET.encode() not in pickle.dumps(key)
    assert pickle.loads(pickle.dumps(key)).variable == copy.deepcopy(key).variable == "RAGGYM_KEY"  # noqa: S301


def escaped(text: str, form: str) -> str:
    return "".join(form.format(ord(character)) for character in text)


SPELLINGS = {
    "as it is": lambda key: key,
    "repr": repr,
    "repr of bytes": lambda key: repr(key.encode()),
    "JSON": json.dumps,
    "JSON in JSON": lambda key: json.dumps(json.dumps(key)),
    "JSON with escaped slashes": lambda key: json.dumps(key).replace("/", "\\/"),
    "JSON with every character escaped": lambda key: escaped(key, "\\u{:04x}"),
    "capital escapes": lambda key: escaped(key, "\\u{:04X}"),
    "Python with every character escaped": lambda key: escaped(key, "\\x{:02x}"),
    "URL": lambda key: quote(key, safe=""),
    "URL with slashes": quote,
    "form": quote_plus,
    "URL in URL": lambda key: quote(quote(key, safe=""), safe=""),
    "URL with every character escaped": lambda key: escaped(key, "%{:02x}"),
    "HTML": html.escape,
    "HTML by numbers": lambda key: escaped(key, "&#{};"),
    "HTML by hexadecimal numbers": lambda key: escaped(key, "&#x{:X};"),
    "hexadecimal": lambda key: key.encode().hex(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(key=KEYS, before=st.text(max_size=5), after=st.text(max_size=5))
def test_a_key_is_masked_in_every_spelling(spelling, key, before, after):
    masked = Key("RAGGYM_KEY", key).masked(before + SPELLINGS[spelling](key) + after)
    assert "[key]" in masked
    assert SPELLINGS[spelling](key) not in masked


@given(key=KEYS, before=st.binary(max_size=9), after=st.binary(max_size=9), url=st.booleans())
def test_a_key_is_masked_in_base64_wherever_it_stands(key, before, after, url):
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    text = encode(before + key.encode() + after).decode()
    for spelled in (text, quote(text, safe=""), json.dumps(text).replace("/", "\\/")):
        masked = Key("RAGGYM_KEY", key).masked(f"echo: {spelled}")
        assert "[key]" in masked
        # What is left decodes to less than four characters of the key.
        assert len(masked) <= len(f"echo: {spelled}") - len(base64.b64encode(key.encode())) + len("[key]") + 8


def test_words_are_not_taken_for_a_key_that_stands_in_for_one():
    assert Key("RAGGYM_KEY", "EMPTY").masked("an EMPTY reply") == "an EMPTY reply"


def test_what_a_model_wrote_is_masked_only_where_the_key_is_no_word():
    assert Key("RAGGYM_KEY", SECRET).masked_reply(f"Your key is {SECRET}.") == "Your key is [key]."
    assert Key("RAGGYM_KEY", "not-needed").masked_reply("It is not-needed.") == "It is not-needed."


@pytest.mark.parametrize("name", [*sorted(KEY_ENVS), "RAGGYM_X", "RAGGYM_RETRIEVER_TOKEN"])
def test_known_names_may_hold_a_key(name):
    check_key_env("key_env", name)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_API_KEY",
        "HF_TOKEN",
        "GITHUB_TOKEN",
        "HOME",
        "",
        "raggym_x",
        "RAGGYM_",
        "XRAGGYM_A",
        "RAGGYM_A\n",
        "OPENAI_API_KEY ",
        7,
        None,
        ["OPENAI_API_KEY"],
    ],
)
def test_other_names_may_not_unless_the_user_lists_them(name, monkeypatch):
    monkeypatch.setenv("RAGGYM_KEY_ENVS", "")
    with pytest.raises(OptionError, match=r"^key_env must be .*RAGGYM_KEY_ENVS=NAME"):
        check_key_env("key_env", name)
    if isinstance(name, str) and name.strip() == name != "":
        monkeypatch.setenv("RAGGYM_KEY_ENVS", f"ONE, {name}")
        check_key_env("key_env", name)


def test_a_token_of_a_retriever_may_not_be_a_models_key():
    with pytest.raises(OptionError, match="token_env must be a name that starts with RAGGYM_"):
        check_key_env("token_env", "OPENAI_API_KEY", known=())
