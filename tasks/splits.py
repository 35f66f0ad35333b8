"""Which photos may be fitted on, decided by the photo's own hash.

A photo keeps its split when others are added or removed, and no list of splits has to be stored:
60 % `fit`, 10 % `val` (early stopping), 30 % `test` (seen by nobody's fitting, of experts or users).
"""

FIT, VAL, TEST = "fit", "val", "test"


def split_of(photo_id: str) -> str:
    """Split of a photo, from the first 8 hex digits of its sha256."""
    share = int(photo_id[:8], 16) / 0x1_0000_0000
    return FIT if share < 0.6 else VAL if share < 0.7 else TEST
