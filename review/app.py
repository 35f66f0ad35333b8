"""The review page as a Starlette application: a personal link opens it, everything else needs the cookie that it sets.

Notable: no request leaves for another host and no script but our own runs (Content-Security-Policy). An answer is
acknowledged after it is on disk. A photo is served only to a person who has it to review; for all others it does not exist.

    uv run physique review demo
    uv run pytest tests/review/test_review_requests.py
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from review.desk import desk
from tasks.reviews import Conflict, NotYours, Person, Refused, may_see, person_of, save
from tasks.surveys import Survey

HERE = Path(__file__).parent
COOKIE = "physique_review"
COOKIE_SECONDS = 400 * 24 * 3600  # the link's own last day comes first; browsers keep no cookie longer
LARGEST_BODY = 64 * 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Robots-Tag": "noindex, nofollow",
}
LOG = logging.getLogger("physique.review")


class Media(Protocol):
    """Where pictures come from; None: there is no such picture."""

    def photo(self, photo_id: str) -> bytes | None:
        """A JPEG of a size for the screen."""

    def mesh(self, photo_id: str) -> bytes | None:
        """The same with the recovered mesh drawn over it."""


def make_app(engine: Engine, media: Media, survey: Survey) -> Starlette:
    """The application."""
    routes = [
        Route("/", page),
        Route("/r/{token}", enter),
        Route("/api/desk", show_desk),
        Route("/api/answers", answer, methods=["POST"]),
        Route("/photos/{photo_id}.jpg", picture, name="photo"),
        Route("/meshes/{photo_id}.jpg", picture, name="mesh"),
        Route("/health", lambda request: PlainTextResponse("ok")),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    faults: Any = {HTTPException: refused, SQLAlchemyError: store_away}
    app = Starlette(routes=routes, exception_handlers=faults, middleware=[Middleware(Guarded)])
    app.state.engine, app.state.media, app.state.survey = engine, media, survey
    app.state.pages = Jinja2Templates(HERE / "templates")
    return app


class Guarded:
    """Puts the security headers on every response; what a person sees is kept by no cache in between."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                lines = message.setdefault("headers", [])
                names = {name.lower() for name, _ in lines}
                own = HEADERS if b"cache-control" in names else HEADERS | {"Cache-Control": "no-store"}
                if scope["path"].startswith("/static/"):
                    own = HEADERS | {"Cache-Control": "no-cache"}
                lines += [(name.encode(), value.encode()) for name, value in own.items()]
            await send(message)

        await self.app(scope, receive, headed if scope["type"] == "http" else send)


def enter(request: Request) -> Response:
    """A personal link: the cookie is set, and the token leaves the address bar.

    Not a redirect by status: coming from a mail in another page, browsers would withhold a SameSite=Strict cookie from
    the whole chain of redirects. A refresh is a new request of our own page.
    """
    token = request.path_params["token"]
    if person_of(request.app.state.engine, token) is None:
        return _message(request, "link", 401)
    response = _message(request, "enter", 200)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, COOKIE_SECONDS, path="/", secure=secure, httponly=True, samesite="strict")
    return response


def page(request: Request) -> Response:
    """The page itself, empty: its script asks for the desk."""
    if _person(request) is None:
        return _message(request, "link", 401)
    return request.app.state.pages.TemplateResponse(request, "page.html")


def show_desk(request: Request) -> Response:
    """What this person has to do, and has done."""
    person = _known(request)
    return JSONResponse(desk(request.app.state.engine, person, request.app.state.survey))


async def answer(request: Request) -> Response:
    """One answer: {"key", "kind", "payload"}, acknowledged once it is on disk.

    `person`, if given, is whose page it was given on: a browser has one cookie, and opening another's link changes it.
    """
    _same_origin(request)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "an answer is JSON: Content-Type must be application/json")
    body = await _body(request)
    state = request.app.state
    person = await run_in_threadpool(_known, request)
    try:
        posted = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"the answer is not JSON ({str(error)[:80]})") from None
    if not isinstance(posted, dict) or set(posted) - {"person"} != {"key", "kind", "payload"}:
        raise HTTPException(422, "an answer is an object of key, kind and payload, and may name the person")
    if posted.get("person", person.person_id) != person.person_id:
        raise HTTPException(412, "somebody else's link was opened in this browser since; open your own again")
    try:
        saved = await run_in_threadpool(
            save, state.engine, person, posted["key"], posted["kind"], posted["payload"], state.survey
        )
    except NotYours as error:
        raise HTTPException(404, str(error)) from None
    except Refused as error:
        raise HTTPException(422, str(error)) from None
    except Conflict as error:
        raise HTTPException(409, str(error)) from None
    return JSONResponse({"saved": posted["key"], "repeat": saved.repeat, "at": saved.at.isoformat()})


def picture(request: Request) -> Response:
    """A photo, or its mesh, if it is among this person's."""
    person, photo_id = _known(request), request.path_params["photo_id"]
    nothing = HTTPException(404, "no such photo among yours")
    if len(photo_id) != 64 or not may_see(request.app.state.engine, person, photo_id):
        raise nothing
    media = request.app.state.media
    data = (media.mesh if request.scope["path"].startswith("/meshes/") else media.photo)(photo_id)
    if data is None:
        raise nothing
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})


def refused(request: Request, error: Exception) -> Response:
    """A refusal as JSON for the script, as a page for a person."""
    assert isinstance(error, HTTPException)
    if request.url.path == "/" or request.url.path.startswith("/r/"):
        return _message(request, "missing", error.status_code)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def store_away(request: Request, error: Exception) -> Response:
    """The database is away or overloaded: nothing was acknowledged, the browser tries again."""
    LOG.warning("the store of reviews did not answer: %s", str(getattr(error, "orig", None) or error).splitlines()[0])
    return JSONResponse({"error": "the store does not answer now; try again"}, 503, {"Retry-After": "2"})


def _person(request: Request) -> Person | None:
    return person_of(request.app.state.engine, request.cookies.get(COOKIE, ""))


def _known(request: Request) -> Person:
    person = _person(request)
    if person is None:
        raise HTTPException(401, "your link is no longer valid; open it again or ask for a new one")
    return person


def _same_origin(request: Request) -> None:
    """Refuse what another site's page posts in this person's name."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site not in (None, "same-origin") or (origin and urlsplit(origin).netloc != request.headers.get("host")):
        raise HTTPException(403, "answers are taken from the review page only")


async def _body(request: Request) -> bytes:
    too_large = HTTPException(413, f"the answer is too large: {LARGEST_BODY // 1024} KB at most; shorten the comment")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > LARGEST_BODY:
        raise too_large
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise too_large
    return body


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _message(request: Request, what: str, status: int) -> Response:
    return request.app.state.pages.TemplateResponse(request, "message.html", {"what": what}, status_code=status)
