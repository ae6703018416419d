"""The `raggym` command: one file per subcommand, each a thin layer over a public function."""

from raggym_env.cli.main import app

__all__ = ["app"]
