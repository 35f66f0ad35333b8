"""Something to look at while waiting: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG_EVERY_S = 10


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields `advance(steps)`; the bar goes away with the block, a closing line stays."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    started = said = time.monotonic()
    done = 0
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        row = bar.add_task(label, total=total)

        def advance(steps: int = 1) -> None:
            nonlocal done, said
            done += steps
            bar.update(row, advance=steps)
            if not console.is_terminal and time.monotonic() - said > LOG_EVERY_S:
                said = time.monotonic()
                console.print(f"{label}: {done:,} of {total:,}", highlight=False)

        yield advance
    console.print(f"{label}: {done:,} in {time.monotonic() - started:.1f} s", highlight=False)


@contextmanager
def counted(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `on_progress(done, total)` for work that says both; the bar appears with the first call."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        before = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal advance, before
            advance = advance or stack.enter_context(progress(label, total))
            advance(done - before)
            before = done

        yield on_progress
