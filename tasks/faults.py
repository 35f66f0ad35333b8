"""Errors as a person reads them: one line for what is wrong with the input, a traceback for what is not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def of_input(error: BaseException | None) -> bool:
    """Whether an error is about input, files or settings, so that its message is all a person needs."""
    from tasks.engines import NotStarted
    from tasks.fanout import Halted
    from tasks.intake.quarantine import BadInput
    from tasks.params import BadParams

    ours_to_mend = (KeyError, IndexError, UnicodeError)
    faults = (BadInput, BadParams, Halted, NotStarted, FileNotFoundError, LookupError, ValueError)
    return isinstance(error, faults) and not isinstance(error, ours_to_mend)


@contextmanager
def told() -> Iterator[None]:
    """Ends the process with code 1 and a line on stderr for faults of input, files and settings."""
    try:
        yield
    except Exception as error:
        if not of_input(error):
            raise
        sys.exit(f"physique: {error}")


class OneLine(logging.Filter):
    """Prefect's record of a failed run, for faults of input: the message in the UI, nothing on the terminal."""

    def __init__(self, silent: bool):
        super().__init__()
        self.silent = silent

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and of_input(error):
            record.msg, record.args, record.exc_info, record.told = str(error), (), None, True
        return not (self.silent and getattr(record, "told", False))
