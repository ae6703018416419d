"""`python -m raggym_env` is `raggym`."""

from raggym_env.cli import app

app()
