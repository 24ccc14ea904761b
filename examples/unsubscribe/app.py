"""The page behind the unsubscribe links of newsletter.json: WSGI, the standard library and bulkmail.unsubscribe.

    UNSUBSCRIBE_KEY=... python app.py          serves http://127.0.0.1:8000

Who unsubscribes is written to unsubscribed.txt, which the manifest names under "suppress".
"""

import os
from html import escape
from pathlib import Path
from urllib.parse import parse_qs
from wsgiref.util import request_uri

from bulkmail.unsubscribe import MAX_BODY, is_one_click, verify_url

# The newest key first; old ones stay until nobody opens mail of their time any more.
KEYS = os.environ["UNSUBSCRIBE_KEY"].split(",")
# What the links in the mail begin with. The proxy in front of this server knows it, the server itself may not.
ORIGIN = os.environ.get("UNSUBSCRIBE_ORIGIN", "https://lists.example.com")
FILE = Path(os.environ.get("UNSUBSCRIBED_FILE", "unsubscribed.txt"))

FORM = "<p>Send no more news to {address}?</p><form method='post'><button>Unsubscribe</button></form>"


def app(environ, start_response):
    status, text = answer(environ)
    page = f"<!doctype html><title>Newsletter</title><meta charset='utf-8'>{text}".encode()
    start_response(status, [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(page)))])
    return [page]


def answer(environ):
    # Nothing of the URL is looked at before it is verified.
    if not verify_url(request_uri(environ), KEYS, origin=ORIGIN):
        return "403 Forbidden", "<p>This link is not one of ours, or not all of it arrived.</p>"
    address = parse_qs(environ["QUERY_STRING"])["m"][0]
    # Programs open every link of a mail, to scan it or to show it sooner: a GET unsubscribes nobody.
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return "200 OK", FORM.format(address=escape(address))
    if environ["REQUEST_METHOD"] != "POST":
        return "405 Method Not Allowed", "<p>GET or POST is expected.</p>"
    unsubscribe(address, by="mail client" if is_one_click(*body_of(environ)) else "page")
    # RFC 8058 section 3.2: no redirect, no cookie, no question.
    return "200 OK", "<p>You will get no more news.</p>"


def body_of(environ):
    length = min(int(environ.get("CONTENT_LENGTH") or 0), MAX_BODY)
    return environ["wsgi.input"].read(length), environ.get("CONTENT_TYPE")


def unsubscribe(address, by):
    with FILE.open("a", encoding="utf-8") as file:
        file.write(f"# by {by}\n{address}\n")


if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    with make_server("127.0.0.1", 8000, app) as server:
        print("listening on http://127.0.0.1:8000", flush=True)
        server.serve_forever()
