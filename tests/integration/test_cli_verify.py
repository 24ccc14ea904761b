"""`bulkmail verify` against real servers."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from integration.cli_program import bulkmail, refused


def verify(tmp_path, *args):
    done = bulkmail("verify", *args, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    return done


def states(result):
    return {step["name"]: step["state"] for step in result["steps"]}


def test_what_a_server_offers(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd()
    done = verify(tmp_path, server.url, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] is True and result["tls"] is None and result["auth"] is None
    assert "8BITMIME" in result["extensions"] and "aiosmtpd" in result["greeting"]
    assert str(server.port) in result["peer"]
    words = verify(tmp_path, server.url).stdout
    assert "clear text" in words and "\n  8BITMIME\n" in words
    assert states(result) == {
        "dns": "ok", "connect": "ok", "greeting": "ok", "ehlo": "ok", "tls": "skipped", "login": "skipped"
    }  # fmt: skip
    assert all(step["seconds"] >= 0 for step in result["steps"]) and result["tls_details"] is None


def test_tls_and_login(start_aiosmtpd, certificates, tmp_path):
    server = start_aiosmtpd(tls="starttls", auth=True)
    url = server.url.replace("://127.0.0.1", "://news:s3cret%2F%20pass@localhost")
    done = verify(tmp_path, f"{url}?ca_file={certificates.ca_file}", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tls"].startswith("TLSv1") and result["auth"]
    assert set(states(result).values()) == {"ok"} and "s3cret" not in done.stdout
    details = result["tls_details"]
    assert details["names"] == ["localhost", "127.0.0.1", "mx.example.test"] and details["verified"]
    assert datetime.fromisoformat(details["expires"]) > datetime.now(UTC) and "trustme" in details["issuer"]


def test_a_certificate_that_nobody_checks_is_shown_and_warned_of(start_aiosmtpd, tmp_path):
    url = f"{start_aiosmtpd(tls='starttls').url}?verify=false"
    done = verify(tmp_path, url)
    assert done.returncode == 0 and done.stderr == ""
    assert "warning: the certificate was not verified" in done.stdout and "mx.example.test" in done.stdout
    details = json.loads(verify(tmp_path, url, "--json").stdout)["tls_details"]
    assert details["names"] == ["localhost", "127.0.0.1", "mx.example.test"] and not details["verified"]


def test_a_certificate_that_nobody_vouches_for(start_aiosmtpd, tmp_path):
    done = verify(tmp_path, start_aiosmtpd(tls="starttls").url, "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["code"] == "ETLS" and result["step"] == "tls" and "ca_file=" in result["remedy"]
    assert states(result)["tls"] == "failed" and states(result)["login"] == "skipped"
    assert len(done.stderr.splitlines()) == 1 and "certificate" in done.stderr


def test_a_refused_login_shows_no_password(start_aiosmtpd, tmp_path):
    server = start_aiosmtpd(auth=True)
    done = verify(tmp_path, server.url.replace("://", "://news:wr0ngpass@"))
    assert done.returncode == 1 and "FAILED" in done.stdout and "app password" in done.stdout
    assert "535" in done.stderr and "wr0ngpass" not in done.stderr + done.stdout


def test_a_sender_allowed_and_refused(start_aiosmtpd, tmp_path):
    answers = {"MAIL": lambda address: "550 5.7.1 not you" if "bad" in address else None}
    server = start_aiosmtpd(answers=answers)
    assert "news@example.com" in verify(tmp_path, server.url, "--from", "news@example.com").stdout
    assert verify(tmp_path, server.url, "--from", "<>").returncode == 0
    done = verify(tmp_path, server.url, "--from", "bad@example.com")
    assert done.returncode == 1 and "not you" in done.stderr and "remedy:" in done.stdout
    assert server.mails == []


def test_nobody_there(free_port, tmp_path):
    port = free_port()
    done = verify(tmp_path, f"smtp://127.0.0.1:{port}")
    assert done.returncode == 1 and str(port) in done.stderr and len(done.stderr.splitlines()) == 1
    shown = [line.split()[:2] for line in done.stdout.splitlines()]
    assert ["connect", "FAILED"] in shown and ["greeting", "not"] in shown and ["remedy:", "Nothing"] in shown
    done = verify(tmp_path, "smtp://127.0.0.1:25", "--proxy", f"socks5h://127.0.0.1:{port}", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert (result["code"], result["step"], states(result)["proxy"]) == ("EPROXY", "connect", "not reached")


def test_bad_usage(tmp_path):
    refused(verify(tmp_path, "ftp://example.com"), "ftp")
    refused(verify(tmp_path, "smtp://127.0.0.1?tsl=require"), "tsl", "tls")
    refused(verify(tmp_path, "smtp://127.0.0.1", "--from", "nobody"), "nobody")
    refused(verify(tmp_path, "smtp://127.0.0.1", "--proxy", "gopher://x:1"), "gopher")


def test_the_proxy_that_the_environment_names(free_port, tmp_path):
    port = free_port()
    proxy = f"http://news:s3cret@127.0.0.1:{port}"
    done = bulkmail("verify", "smtp://relay.test", "--proxy", "env", "--json", cwd=tmp_path, SMTP_PROXY=proxy)
    assert done.returncode == 1 and "s3cret" not in done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["code"], states(result)["proxy"]) == ("EPROXY", "not reached") and str(port) in done.stderr


def test_each_proxy_of_a_chain_is_a_step_and_the_one_that_is_down_is_named(free_port, tmp_path):
    first, second = free_port(), free_port()
    chain = ["--proxy", f"http://news:s3cret@127.0.0.1:{first}", "--proxy", f"socks5h://news:s3cret@127.0.0.1:{second}"]
    done = verify(tmp_path, "smtp://relay.test", *chain, "--json")
    assert done.returncode == 1 and "s3cret" not in done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["code"], result["step"]) == ("EPROXY", "connect") and str(first) in result["error"]
    assert (states(result)["proxy 1"], states(result)["proxy 2"]) == ("not reached", "not reached")
    words = verify(tmp_path, "smtp://relay.test", *chain)
    assert "proxy 1" in words.stdout and "s3cret" not in words.stdout + words.stderr
