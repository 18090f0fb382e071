"""Runs the command ``capgate``. Its packages come with the extra ``cli``; ``import capgate`` needs none of them.

It may use every room. Read ``app.py`` first.

Exit codes: 0 everything was as expected, 1 an answer was not, 2 the command cannot be carried out as given.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, NoReturn

from ..errors import CapgateError

USAGE: Final = 2

#: The packages of the extra ``cli``.
EXTRA: Final = frozenset({"fastapi", "httpx", "rich", "typer", "uvicorn", "watchfiles"})


def main() -> NoReturn:
    """Run the command line. An error that a user can mend is one sentence on standard error, without a traceback."""
    try:
        from .app import app

        app(prog_name="capgate")
    except CapgateError as error:
        _stop(str(error))
    except OSError as error:  # a full disk, a closed terminal
        _forget_output()
        _stop(f"{error.strerror or type(error).__name__}")
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        _stop(f"the command needs {error.name}; install it with: pip install 'capgate[cli]'")
    sys.exit(0)


def _forget_output() -> None:
    """Drop the output that could not be written.

    It is still buffered, and Python would try again, and complain, when it ends.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _stop(sentence: str) -> NoReturn:
    print(f"capgate: {sentence}", file=sys.stderr)
    sys.exit(USAGE)
