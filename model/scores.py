"""What is scored, in which order and on which scale; every table and tensor of the house follows it."""

DIMENSIONS: tuple[str, str, str] = ("appearance", "health", "posture")
SCALE: tuple[float, float] = (0.0, 10.0)
THRESHOLD = 5.0
"""Accuracy counts scores on the same side of this value as agreeing (paper, Sec. 5)."""
