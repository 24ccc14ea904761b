"""The web handlers of docs/list-mail.md do what the page says, each in the framework it names."""

import asyncio
import io
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from bulkmail.unsubscribe import sign_url

PAGE = (Path(__file__).parents[2] / "docs" / "list-mail.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
KEY = "k3y-of-the-newsletter-department"
LINK = sign_url("https://lists.example.com/u/17?list=Zoë+news&m=a%2Bb@example.net", KEY)
TARGET = LINK.removeprefix("https://lists.example.com")
BODY, FORM = b"List-Unsubscribe=One-Click", "application/x-www-form-urlencoded"


@pytest.fixture(params=["flask", "starlette", "wsgiref"])
def page(request):
    """(requested, left): requested(method, target, body) -> status; left: who has unsubscribed, and by what."""
    pytest.importorskip(request.param)
    (block,) = (block for block in BLOCKS if f"from {request.param}" in block)
    left = []
    names = {"KEYS": [KEY], "leave": lambda who, by: left.append((who, by)), "__name__": "page"}
    exec(block, names)
    call = by_asgi if request.param == "starlette" else by_wsgi
    return lambda *request: call(names["app"], *request), left


def by_wsgi(app, method, target, body=b""):
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": query,
        "HTTP_HOST": "127.0.0.1:8000",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": FORM,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
    }
    statuses = []
    b"".join(app(environ, lambda status, headers, exc_info=None: statuses.append(int(status[:3]))))
    return statuses[0]


def by_asgi(app, method, target, body=b""):
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000"), (b"content-type", FORM.encode())],
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(event):
        sent.append(event)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


def test_a_mail_clients_post_unsubscribes_and_a_look_at_the_page_does_not(page):
    requested, left = page
    assert requested("GET", TARGET) == 200 and left == []
    assert requested("POST", TARGET, BODY) == 200
    assert requested("POST", TARGET.replace("@", "%40").replace("%2B", "%2b").replace("+", "%20"), b"") == 200
    assert left == [(17, "mail client"), (17, "page")]


def test_another_link_unsubscribes_nobody(page):
    requested, left = page
    for target in (TARGET.replace("17", "18"), TARGET[:-1], TARGET + "&x=1", "/u/17", TARGET.replace("%2B", "+")):
        assert requested("POST", target, BODY) == 403
    assert left == []


def test_the_pages_example_of_a_signed_url_is_one():
    assert sign_url("https://lists.example.com/u/17", KEY) in PAGE
