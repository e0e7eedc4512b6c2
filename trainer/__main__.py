"""`music-reclass-train`: the trainer's door.

Exit codes: 0 done, 1 failed (said why), 2 wrong usage, config or data set.
"""

from __future__ import annotations

import sys

import click

from daemon.core.errors import ConfigError, MusicReclassError
from trainer.commands import program


def main() -> None:
    """Run the command line; errors raised on purpose end with their text instead of a traceback."""
    try:
        program()
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except MusicReclassError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
