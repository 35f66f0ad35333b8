"""Errors as a person reads them: one line for what is wrong with the input, a traceback for what is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def told() -> Iterator[None]:
    """Ends the process with code 1 and a line on stderr for faults of input, files and settings."""
    from tasks.intake.quarantine import BadInput
    from tasks.params import BadParams

    try:
        yield
    except (BadInput, BadParams, FileNotFoundError, LookupError, ValueError) as error:
        if isinstance(error, (KeyError, IndexError, UnicodeError)):
            raise  # ours to mend, not the user's
        sys.exit(f"physique: {error}")
