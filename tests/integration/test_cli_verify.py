"""`bulkmail verify` against real servers."""

from __future__ import annotations

import json

from integration.cli_program import bulkmail, refused


def verify(tmp_path, *args):
    done = bulkmail("verify", *args, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    return done


def test_what_a_server_offers(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    done = verify(tmp_path, server.url, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] is True and result["tls"] is None and result["auth"] is None
    assert "8BITMIME" in result["extensions"] and "aiosmtpd" in result["greeting"]
    assert str(server.port) in result["peer"]
    words = verify(tmp_path, server.url).stdout
    assert "clear text" in words and "8BITMIME" in words


def test_tls_and_login(start_aiosmtpd, certificates, tmp_path):
    server = start_aiosmtpd(tls="starttls", auth=True)
    url = server.url.replace("://127.0.0.1", "://news:s3cret%2F%20pass@localhost")
    done = verify(tmp_path, f"{url}?ca_file={certificates.ca_file}", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tls"].startswith("TLSv1") and result["auth"]


def test_a_certificate_that_nobody_vouches_for(start_aiosmtpd, tmp_path):
    done = verify(tmp_path, start_aiosmtpd(tls="starttls").url, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "ETLS"
    assert len(done.stderr.splitlines()) == 1 and "certificate" in done.stderr


def test_a_refused_login_shows_no_password(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd(auth=True)
    done = verify(tmp_path, server.url.replace("://", "://news:wr0ngpass@"))
    assert done.returncode == 1 and done.stdout == ""
    assert "535" in done.stderr and "wr0ngpass" not in done.stderr


def test_a_sender_allowed_and_refused(start_aiosmtpd, tmp_path):
    answers = {"MAIL": lambda address: "550 5.7.1 not you" if "bad" in address else None}
    server = start_aiosmtpd(answers=answers)
    assert "news@example.com" in verify(tmp_path, server.url, "--from", "news@example.com").stdout
    assert verify(tmp_path, server.url, "--from", "<>").returncode == 0
    done = verify(tmp_path, server.url, "--from", "bad@example.com")
    assert done.returncode == 1 and "not you" in done.stderr
    assert server.mails == []


def test_nobody_there(free_port, tmp_path):
    port = free_port()
    done = verify(tmp_path, f"smtp://127.0.0.1:{port}")
    assert done.returncode == 1 and done.stdout == ""
    assert str(port) in done.stderr and len(done.stderr.splitlines()) == 1
    done = verify(tmp_path, "smtp://127.0.0.1:25", "--proxy", f"socks5h://127.0.0.1:{port}", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "EPROXY"


def test_bad_usage(tmp_path):
    refused(verify(tmp_path, "ftp://example.com"), "ftp")
    refused(verify(tmp_path, "smtp://127.0.0.1?tsl=require"), "tsl", "tls")
    refused(verify(tmp_path, "smtp://127.0.0.1", "--from", "nobody"), "nobody")
    refused(verify(tmp_path, "smtp://127.0.0.1", "--proxy", "gopher://x:1"), "gopher")
