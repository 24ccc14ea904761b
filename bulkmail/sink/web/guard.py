"""Who may ask for the page, and what a browser may do with the answers.

The page has no login: what keeps strangers' web sites away from it is checked here. A site can have its own name
resolve to this machine (DNS rebinding), so a name in Host must be one that it cannot have; and it can send a request
without reading the answer, so what changes something must come from the page itself.
"""

from __future__ import annotations

import ipaddress
import re

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

# Of the page itself: its own script and style, nothing inline. Trusted types: text never becomes markup by mistake.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
# Of everything else that is no html: opened directly, it is text or nothing.
DATA_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
COMMON = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-DNS-Prefetch-Control": "off",  # no policy keeps a browser from looking up the hosts of links
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_host = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::\d{1,5})?").fullmatch
SAFE_METHODS = {"GET", "HEAD"}


def html_policy(images: str) -> str:
    """Of the html of a message: its styles, its own images at the URLs that begin with `images`, nothing else. The
    sandbox holds where it is opened outside of the page's frame, too."""
    return (
        f"default-src 'none'; img-src {images} data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'; sandbox"
    )


def host_of(header: str) -> str:
    """The host of a Host field, in lower case, without brackets and port; "" where it is no such field."""
    found = _host(header)
    return (found[1] or found[2]).lower() if found else ""


def is_ours(host: str, own: str) -> bool:
    """An address, localhost, or the name that the page listens on: no name that a stranger can have."""
    if host == own.lower() or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_same_origin(request: web.Request) -> bool:
    """Whether the page itself sent it, or a program: browsers say Origin, and newer ones Sec-Fetch-Site."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or origin == f"http://{request.headers.get('Host', '')}"


def error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def guard(own: str) -> Middleware:
    """The middleware of a page that listens on the host `own`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = host_of(request.headers.get("Host", ""))
        if not is_ours(host, own):
            return error(403, "the page is reached by an address, by localhost, or by the name that --web has")
        if request.method not in SAFE_METHODS and not is_same_origin(request):
            return error(403, "what changes something is taken from the page itself only")
        try:
            return await handler(request)
        except web.HTTPException as problem:
            return error(problem.status, problem.text or problem.reason)

    return middleware


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Every response, errors included; a handler's own fields stay."""
    for name, value in COMMON.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", DATA_POLICY)
    response.headers.pop("Server", None)
