"""Bodies for the tests of mannequins."""

from tests.bodies import body, body_file, renderer

__all__ = ["body", "body_file", "renderer"]
