"""Forgetting a person or a photo: who is meant, where they may be, removing, and the proof (docs/forget.md)."""
