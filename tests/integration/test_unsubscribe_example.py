"""The example of signed unsubscribe links, from the job that makes them to the run that sends no more."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import threading
from email import message_from_bytes
from email.policy import SMTP
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from bulkmail.job.job import Job

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "unsubscribe"
KEY = "the-example's-key-of-32-bytes-..."
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Quiet(WSGIRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(EXAMPLE, tmp_path / "unsubscribe"))


@pytest.fixture
def page(folder, monkeypatch):
    """The base URL of the example's web server."""
    monkeypatch.setenv("UNSUBSCRIBE_KEY", f"a-newer-key-than-that-of-the-mail,{KEY}")
    monkeypatch.setenv("UNSUBSCRIBED_FILE", str(folder / "unsubscribed.txt"))
    spec = importlib.util.spec_from_file_location("unsubscribe_example", folder / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with make_server("127.0.0.1", 0, module.app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def sent(folder, server, **options):
    """The mails of one run of the example's job: address -> message."""
    path = folder / "newsletter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"relays": server.url}))
    before = len(server.mails)
    report = Job.load(path, environ={"UNSUBSCRIBE_KEY": KEY}).run(**options)
    assert report.exit_code == 0
    return {mail.recipients[0]: message_from_bytes(mail.content, policy=SMTP) for mail in server.mails[before:]}


def own_link(message):
    (url,) = re.findall(r"<([^>]*)>", message["List-Unsubscribe"])
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert message.get_content().rstrip().endswith(url)
    return url.removeprefix("https://lists.example.com")


def opened(url, data=None, **headers):
    try:
        with urlopen(Request(url, data, headers), timeout=30) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_a_link_from_the_mail_unsubscribes_its_recipient_and_nobody_else(start_aiosmtpd, folder, page):
    server = start_aiosmtpd()
    mails = sent(folder, server)
    assert set(mails) == {"ann@example.net", "bob+news@example.org"}
    assert mails["ann@example.net"]["Precedence"] == "bulk"
    ann, bob = (own_link(mails[address]) for address in ("ann@example.net", "bob+news@example.org"))
    file = folder / "unsubscribed.txt"
    before = file.read_text()

    # A scanner looks, a stranger tries other addresses.
    status, text = opened(page + bob)
    assert status == 200 and "bob+news@example.org?" in text and "<form method='post'>" in text
    tampered = [
        bob.replace("bob", "ann"),
        ann.partition("sig=")[0] + "sig=" + bob.partition("sig=")[2],
        ann + "&m=bob%2Bnews@example.org",
        "/u?m=ann@example.net",
        "/other" + ann.removeprefix("/u"),
        ann[:-1],
    ]
    for link in tampered:
        assert opened(page + link)[0] == 403
        assert opened(page + link, b"List-Unsubscribe=One-Click", **FORM)[0] == 403
    assert file.read_text() == before

    status, text = opened(page + bob.replace("%40", "@"), b"List-Unsubscribe=One-Click", **FORM)
    assert status == 200 and "no more news" in text
    assert file.read_text() == before + "# by mail client\nbob+news@example.org\n"
    assert set(sent(folder, server, fresh=True)) == {"ann@example.net"}


def test_the_button_of_the_page_works_too_and_other_methods_do_nothing(start_aiosmtpd, folder, page):
    link = page + own_link(sent(folder, start_aiosmtpd())["ann@example.net"])
    with pytest.raises(HTTPError, match="405"):
        urlopen(Request(link, method="DELETE"), timeout=30)
    assert "ann@" not in (folder / "unsubscribed.txt").read_text()
    assert opened(link, b"")[0] == 200
    assert (folder / "unsubscribed.txt").read_text().endswith("# by page\nann@example.net\n")


def test_without_its_key_the_job_does_not_begin(folder):
    from bulkmail.errors import ManifestError

    with pytest.raises(ManifestError, match="UNSUBSCRIBE_KEY"):
        Job.load(folder / "newsletter.json", environ={})
    with pytest.raises(ManifestError, match="expected at least 16") as caught:
        Job.load(folder / "newsletter.json", environ={"UNSUBSCRIBE_KEY": "too-shrt"})
    assert "too-shrt" not in str(caught.value)
