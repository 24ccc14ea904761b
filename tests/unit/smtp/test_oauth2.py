"""The refresh grant against endpoints that answer well, badly, slowly, endlessly or not at all."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from bulkmail.errors import AuthError, ConfigError
from bulkmail.smtp.auth import oauth2
from bulkmail.smtp.auth.oauth2 import MAX_ANSWER, RefreshGrant
from bulkmail.smtp.auth.tokens import TokenSource
from bulkmail.url import parse_endpoint, parse_options

SECRETS = ("client+secret/é", "refresh+token/x", "access-token.abc")
GOOD = json.dumps({"access_token": SECRETS[2], "expires_in": 3600, "token_type": "Bearer"}).encode()


@contextmanager
def endpoint(*answers):
    """An HTTP server on loopback. The n-th request gets the n-th answer, later ones the last.

    answers  (status, body), or function(handler)
    yields  (its URL, the forms that it was sent).
    """
    forms = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            forms.append({name: value for name, (value,) in parse_qs(body.decode()).items()})
            answer = answers[min(len(forms), len(answers)) - 1]
            if callable(answer):
                answer(self)
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def handle(self):
            with suppress(OSError):  # the client has gone
                super().handle()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token", forms
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def grant(url, **more):
    settings = {"client_id": "me", "client_secret": SECRETS[0], "refresh_token": SECRETS[1], "token_url": url, **more}
    return RefreshGrant(parse_options({"oauth2": settings})["oauth2"])


def failure(run, *answers, **options):
    async def main():
        with endpoint(*answers) as (url, _), pytest.raises(AuthError) as caught:
            await TokenSource(grant(url), **options).get()
        return caught.value

    error = run(main())
    assert not [secret for secret in SECRETS if secret in str(error) + repr(error.__cause__)]
    assert "127.0.0.1" in str(error) and len(str(error)) < 500 and str(error).isprintable()
    return error


def test_the_grant_of_rfc_6749_section_6(run):
    async def main():
        with endpoint((200, GOOD)) as (url, forms):
            found = await grant(url, scope="mail send").fetch(False)
            return found, forms

    found, (form,) = run(main())
    assert found == (SECRETS[2], 3600.0)
    assert form == {
        "grant_type": "refresh_token",
        "client_id": "me",
        "client_secret": SECRETS[0],
        "refresh_token": SECRETS[1],
        "scope": "mail send",
    }


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [(60, 60.0), ("3599", 3599.0), (None, None), ("soon", None), (-5, None), (0, None), (1e300, None), ([], None)],
)
def test_how_long_a_token_is_good_for(run, expires_in, seconds):
    body = json.dumps({"access_token": "t", "expires_in": expires_in}).encode()

    async def main():
        with endpoint((200, body)) as (url, _):
            return (await grant(url).fetch(False))[1]

    assert run(main()) == seconds


RENEWED = json.dumps({"access_token": "t", "refresh_token": "newer"}).encode()


def test_a_new_refresh_token_takes_the_place_of_the_old_one_for_everybody(run):
    async def main():
        with endpoint((200, RENEWED), (200, GOOD)) as (url, forms):
            for _ in range(3):
                await grant(url).fetch(False)  # as another Mailer would
            await grant(url, client_id="else").fetch(False)
            return [form["refresh_token"] for form in forms]

    assert run(main()) == [SECRETS[1], "newer", "newer", SECRETS[1]]


def test_a_new_refresh_token_that_is_refused_gives_way_to_the_configured_one(run):
    async def main():
        with endpoint((200, RENEWED), (400, b'{"error": "no newer"}'), (200, GOOD)) as (url, forms):
            await grant(url).fetch(False)
            with pytest.raises(AuthError, match=r"no \*\*\*"):
                await grant(url).fetch(False)
            await grant(url).fetch(False)
            return [form["refresh_token"] for form in forms]

    assert run(main()) == [SECRETS[1], "newer", SECRETS[1]]


def test_replaced_refresh_tokens_do_not_fill_the_memory(run, monkeypatch):
    monkeypatch.setattr(oauth2, "_replaced", {})

    async def main():
        with endpoint((200, RENEWED)) as (url, _):
            for number in range(oauth2.KEPT + 2):
                await grant(url, client_id=f"c{number}").fetch(False)

    run(main())
    assert len(oauth2._replaced) == oauth2.KEPT and "c0" not in {settings.client_id for settings in oauth2._replaced}


def test_a_public_client_has_no_secret(run):
    async def main():
        with endpoint((200, GOOD)) as (url, forms):
            await grant(url, client_secret=None).fetch(False)
            return forms[0]

    assert "client_secret" not in run(main())


@pytest.mark.parametrize(
    ("status", "body", "words", "permanent"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "revoked"}', "invalid_grant: revoked", True),
        (401, b'{"error": "invalid_client"}', "invalid_client", True),
        (400, b"<html>", "HTTP status 400", True),
        (429, b"{}", "HTTP status 429", False),
        (503, b'{"error": "temporarily_unavailable"}', "temporarily_unavailable", False),
        (400, json.dumps({"error": f"bad {SECRETS[1]} {SECRETS[0]}"}).encode(), "bad *** ***", True),
        (400, b'{"error": "' + b"x" * 5000 + b'\\u001b[2J"}', "xxx", True),
        (302, b"", "HTTP status 302", False),
        (204, b"", "HTTP status 204", False),
        (200, b"", "without an access_token", False),
        (200, b"[]", "without an access_token", False),
        (200, b"[" * 60000, "without an access_token", False),
        (200, b'{"access_token": 5}', "without an access_token", False),
        (200, b'{"access_token": "a b"}', "not an access token", True),
        (200, b'{"access_token": "a\\r\\nNOOP"}', "not an access token", True),
        (200, b"\xff\xfe", "without an access_token", False),
        (200, b" " * (MAX_ANSWER + 1), f"more than {MAX_ANSWER} bytes", True),
    ],
)  # fmt: skip
def test_an_endpoint_that_answers_something_else(run, status, body, words, permanent):
    error = failure(run, (status, body))
    assert words in str(error) and error.permanent is permanent


def test_a_redirect_does_not_take_the_secrets_elsewhere(run):
    async def main():
        with endpoint((200, GOOD)) as (elsewhere, stolen):

            def redirect(handler):
                handler.send_response(307)
                handler.send_header("Location", elsewhere)
                handler.end_headers()

            with endpoint(redirect) as (url, _), pytest.raises(AuthError, match="HTTP status 307"):
                await grant(url).fetch(False)
            return stolen

    assert run(main()) == []


def garbage(handler):
    handler.wfile.write(b"\x00\xff garbage\r\n\r\n")


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


def endless_header(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n")


def cut_body(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    hang_up(handler)


def endless_body(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b" " * 65536)


@pytest.mark.parametrize("answer", [garbage, hang_up, endless_header, cut_body, endless_body])
def test_an_endpoint_that_breaks_http(run, answer):
    failure(run, answer)


def never(handler):
    handler.rfile.read(1)  # until the client hangs up


def never_ending_body(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.wfile.flush()
    never(handler)


@pytest.mark.parametrize("answer", [never, never_ending_body])
def test_an_endpoint_that_is_silent_is_hung_up_on(run, answer):
    """The thread that waits for it ends too: the loop's end, which waits for its threads, is not held up."""
    asked, released = threading.Event(), threading.Event()

    def silent(handler):
        asked.set()
        answer(handler)
        released.set()

    for seconds in (0.2, 5.0):  # on a busy machine the first may be over before the endpoint is asked
        assert "no token within" in str(failure(run, silent, seconds=seconds))
        if asked.is_set():
            break
    assert released.wait(10)


def test_an_endpoint_that_nobody_listens_at(run, free_port):
    async def main():
        with pytest.raises(AuthError) as caught:
            await TokenSource(grant(f"http://127.0.0.1:{free_port()}/t")).get()
        return caught.value

    error = run(main())
    assert "Connection refused" in str(error) and error.permanent is False


def test_https_with_a_certificate_of_nobody_we_know(run, certificates):
    """The endpoint gets to see no secret."""

    async def main():
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=certificates.server_context())
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(AuthError, match="certificate is not valid") as caught:
                await TokenSource(grant(f"https://localhost:{port}/t")).get()
        finally:
            server.close()
        return caught.value

    assert run(main()).permanent is False


def test_in_clear_no_proxy_of_the_environment_gets_to_see_it(run, monkeypatch):
    async def main():
        with endpoint((200, GOOD)) as (url, _), endpoint((200, b"{}")) as (proxy, seen):
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy)
            monkeypatch.delenv("no_proxy", raising=False)
            return (await grant(url).fetch(False))[0], seen

    assert run(main()) == (SECRETS[2], [])


# ---- the option


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", "expected an object"),
        (5, "expected an object"),
        ([], "expected an object"),
        ({}, "'client_id' is missing"),
        ({"client_id": "a", "refresh_token": "hidden"}, "'token_url' is missing"),
        ({"client_id": 5}, "'client_id' is not a printable text"),
        ({"client_id": "a", "refresh_token": "hidden\n"}, "'refresh_token' is not a printable text"),
        ({"client": "a"}, "did you mean 'client_id'?"),
        ({"token_url": "http://o.example/t"}, "use https://"),
        ({"token_url": "ftp://o.example/t"}, "not a URL such as"),
        ({"token_url": "https:///t"}, "not a URL such as"),
        ({"token_url": "https://o.example:port/t"}, "not a URL"),
        ({"token_url": "https://u:hidden@o.example/t"}, "has a user"),
        ({"token_url": "https://o.example/t t"}, "not a URL such as"),
    ],
)
def test_a_bad_value_of_oauth2(value, words):
    if isinstance(value, dict) and "token_url" in value:
        value = {"client_id": "a", "refresh_token": "hidden"} | value
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("smtp://ann@relay", oauth2=value)
    assert words in str(caught.value) and "hidden" not in str(caught.value)


def test_oauth2_as_json_text_and_its_repr():
    text = json.dumps({"client_id": "me", "refresh_token": "secret", "token_url": "https://o.example/t?key=secret"})
    relay = parse_endpoint("smtp://ann@relay", oauth2=text)
    assert relay.options.oauth2.refresh_token == "secret" and hash(relay) == hash(relay)
    assert "secret" not in repr(relay) + repr(relay.options) + str(relay)
