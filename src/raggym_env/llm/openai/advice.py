"""What to do about a server that answers no prompt at all: the message of the error that ends a run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from raggym_env.llm.openai.server import Server

__all__ = ["advice", "explanation"]

# "System role not supported", "Only user and assistant roles are supported", "roles must alternate user/assistant".
_ABOUT_ROLES = re.compile(
    r"system\W+(role|message|prompt|instruction)|developer instruction|\broles?\b.*\b(user|support)", re.I | re.S
)


def explanation(server: Server, status: int | None, message: str, *, key_sent: bool, models: str) -> str:
    """Return what happened and what to do.

    Args:
        server: The server.
        status: The HTTP status; None if nothing answers.
        message: The server's words.
        key_sent: Whether a key was sent.
        models: The models that the server lists, for a status of 404.
    """
    variable = server.key_env or "key_env"
    if status is None:
        return f"Nothing answers at {server.url} ({message}). Start the server, or correct the URL."
    if status < 400:
        return f"{server.url} redirects ({message}). Name that URL instead, if the key may be sent there."
    if status in (401, 403):
        problem = f"refuses the key in ${variable}" if key_sent else f"needs a key, and ${variable} is not set"
        return f"{server.url} {problem} ({message}). Set ${variable} to a key that may use {server.model!r}."
    if status == 404:
        hint = f"It serves: {models}." if models else "Check the URL: it usually ends in /v1."
        return f"{server.url} has no model {server.model!r} ({message}). {hint}"
    return f"{server.url} has no credit left for {server.model!r} ({message}). The run can be resumed once it has."


def advice(server: Server, message: str, body: Mapping[str, Any]) -> str:
    """Return the option that makes a server accept requests which it refuses in these words.

    Args:
        server: The server, with the options that it has already.
        message: The server's words.
        body: The request, as it was sent.
    """
    if any(turn.get("role") == "system" for turn in body["messages"]) and _ABOUT_ROLES.search(message):
        return f"If the model takes no system message: {_settings(system_role=False)}"
    # A model's name may consist of such words.
    words = message.replace(str(body["model"]), "")
    fields = [name for name in body if re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", words)]
    field = next((name for name in fields if name not in ("model", "messages")), None)
    if field is None:
        return (
            "Options of the model change what is sent: omit (fields to leave out), extra_body (fields to add), "
            f"system_role and n_supported. E.g. {_settings(omit=['seed'])}"
        )
    if field == "n":
        return f"If the model gives one reply at a time: {_settings(n_supported=False)}"
    omit = [*server.omit, field]
    if field == "max_tokens" and "max_completion_tokens" in words:
        extra = {"extra_body.max_completion_tokens": body[field]}
        return f"If the model takes the newer field: {_settings(omit=omit, **extra)}"
    return f"If the model takes no {field}: {_settings(omit=omit)}. Otherwise, set another {field}"


def _settings(**options: Any) -> str:
    """Return options of a model as the command line takes them. JSON of these values is TOML too."""
    return " ".join(f"--set 'policy.options.llm_options.{name}={json.dumps(value)}'" for name, value in options.items())
