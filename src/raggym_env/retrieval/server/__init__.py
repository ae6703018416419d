"""Serve any retriever over HTTP: `raggym serve`. Importing this package loads neither Starlette nor uvicorn."""

from raggym_env.retrieval.server.options import Batching, ServerOptions
from raggym_env.retrieval.server.processes import serve_processes
from raggym_env.retrieval.server.server import (
    bind,
    check_installed,
    is_local,
    running,
    running_app,
    serve,
    serve_app,
    url_of,
)
from raggym_env.retrieval.wire import Limits

__all__ = [
    "Batching",
    "Limits",
    "ServerOptions",
    "bind",
    "check_installed",
    "is_local",
    "running",
    "running_app",
    "serve",
    "serve_app",
    "serve_processes",
    "url_of",
]
