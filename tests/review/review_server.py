"""Serve the page in a process of its own, for tests: `python review_server.py STORE_URL PORT`.

Photos are drawn on the spot. The survey is the project's.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Painted:
    """A photo of one colour per id; every second one has no mesh."""

    def photo(self, photo_id: str) -> bytes | None:
        from PIL import Image

        buffer = io.BytesIO()
        Image.new("RGB", (96, 128), f"#{photo_id[:6]}").save(buffer, "JPEG")
        return buffer.getvalue()

    def mesh(self, photo_id: str) -> bytes | None:
        return self.photo(photo_id[::-1]) if int(photo_id[0], 16) % 2 else None


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import uvicorn

    from review.app import make_app
    from tasks.reviews import open_store
    from tasks.surveys import load_survey

    app = make_app(open_store(sys.argv[1]), Painted(), load_survey(ROOT / "surveys/physique.yaml"))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
