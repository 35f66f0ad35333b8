"""The fault drill: one thing after the other is broken on a running stack; what was lost, how long, what was to be seen.

    uv run python -m tests.drill                          all faults, then docs/reliability.md
    uv run python -m tests.drill --only worker,disk       these; the rows of the others stay as they are
    uv run pytest -m slow tests/drill                     the same, and a row with something lost fails
"""
