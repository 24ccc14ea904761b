"""What docs/features.md promises of relays, egresses, limits and retries."""

from __future__ import annotations

from typing import Any

from bulkmail.errors import TimedOut
from bulkmail.sink import Refuse
from integration.feature_page import Ran
from integration.feature_promises import ALL, everybody, row

# ---- relays


@row("relays a URL")
def relays_url(ran: Ran) -> None:
    everybody(ran)
    assert ran.ann.helo == "mailer.example.com"


@row("relays several")
def relays_several(ran: Ran) -> None:
    everybody(ran)
    assert {line["relay"] for line in ran.lines.values()} == {"main"}


@row("relays.name")
def relays_name(ran: Ran) -> None:
    assert list(ran.summary["relays"]) == ["main"]


@row("relays.tls", "relays.ca_file", "relays.server_name", "relays.cert_file", "relays.key_file", tls="starttls")
@row("relays.tls opportunistic", "relays.verify", "relays.tls_min", tls="starttls")
def tls(ran: Ran) -> None:
    everybody(ran)
    assert ran.ann.tls
    if ran.job.manifest.relays[0].endpoint.options.tls_min == "1.3":
        assert "1.3" in str(ran.ann.tls)


@row("relays.tls never", tls="starttls")
def tls_never(ran: Ran) -> None:
    everybody(ran)
    assert not ran.ann.tls


@row("relays.local_address")
def local_address(ran: Ran) -> None:
    assert ran.ann.remote_address == "127.0.0.2"


@row("relays.connect_timeout", "relays.dns_timeout", "relays.idle_timeout")
def timeouts(ran: Ran) -> None:
    """What takes no time; the others have examples that run out."""
    everybody(ran)
    options = ran.job.manifest.relays[0].endpoint.options
    assert 5.0 in (options.connect_timeout, options.dns_timeout, options.idle_timeout)


@row("relays.greeting_timeout", fault=["greeting:hang"])
@row("relays.command_timeout", fault=["ehlo:hang"])
def silence(ran: Ran) -> None:
    assert not ran.mails
    assert ran.report.exit_code == 3
    assert isinstance(ran.report.error, TimedOut)


@row("relays.data_timeout", fault=["body:hang"])
def data_timeout(ran: Ran) -> None:
    assert ran.summary["in_doubt"] > 0
    assert ran.summary["delivered"] == 0


class Logins:
    """Takes any login with the password or token that is right, and notes it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def on_auth(self, session: Any, mechanism: str, user: str, password: str) -> None:
        self.seen.append((mechanism, user))
        if (user, password) != ("ann", "s3cret"):
            raise Refuse(535, "no", enhanced="5.7.8")


@row(
    "relays.auth", "relays.allow_plaintext_auth", "relays.token", "relays.token_command", "relays.oauth2", hooks=Logins
)
def logins(ran: Ran) -> None:
    everybody(ran)
    options = ran.job.manifest.relays[0].endpoint.options
    mechanisms = {mail.auth for mail in ran.sink.messages}
    assert mechanisms == {"ann"}
    if options.auth == "login":
        assert "AUTH LOGIN" in ran.log
    if options.oauth2 is not None:
        assert b"grant_type=refresh_token" in ran.around.posted[0][2]
    assert "s3cret" not in ran.log


@row("relays.connections", "limits.connections", "egress.max_connections")
def connections(ran: Ran) -> None:
    everybody(ran)
    assert ran.sink.counts["connections"] == 1


@row("relays.messages_per_connection")
def messages_per_connection(ran: Ran) -> None:
    everybody(ran)
    assert ran.sink.counts["connections"] == 3


@row("relays.rate", "limits.rate", "egress.rate")
def rate(ran: Ran) -> None:
    """One at once, then one each tenth of a second: the third comes after two of them."""
    everybody(ran)
    assert ran.summary["seconds"] >= 0.19


@row("relays.batch")
def batch(ran: Ran) -> None:
    everybody(ran)
    assert sorted(len(mail.recipients) for mail in ran.sink.messages) == [1, 2]


@row("relays.pipelining")
def pipelining(ran: Ran) -> None:
    everybody(ran)
    assert not ran.job.manifest.relays[0].endpoint.options.pipelining


@row("relays.chunking")
def chunking(ran: Ran) -> None:
    everybody(ran)
    assert "BDAT" not in ran.log
    assert "DATA" in ran.log


@row("relays.proxy", "egress", "egress.proxy")
def proxy(ran: Ran) -> None:
    everybody(ran)
    assert set(ran.around.proxied) == {ran.sink.port}


@row("relays.no_proxy")
def no_proxy(ran: Ran) -> None:
    everybody(ran)


@row("relays.proxy_protocol", proxy_from="*")
def proxy_protocol(ran: Ran) -> None:
    everybody(ran)
    assert (ran.ann.remote_address, ran.ann.proxy_address) == ("127.0.0.3", "127.0.0.3")


@row("relays.egress")
def egress(ran: Ran) -> None:
    everybody(ran)
    assert {line["egress"] for line in ran.lines.values()} == {"a"}
    assert ran.ann.remote_address == "127.0.0.4"


@row("relays.domains")
def domains(ran: Ran) -> None:
    everybody(ran)
    assert [ran.lines[to]["egress"] for to in ALL] == ["a", "b", "b"]


@row("relays.wire_log")
def wire_log(ran: Ran) -> None:
    everybody(ran)
    assert "RCPT TO:<ann@example.com>" in ran.log


@row("relays.log", "relays.allow_files", "relays.allow_urls")
def switches(ran: Ran) -> None:
    everybody(ran)
    options = ran.job.manifest.relays[0].endpoint.options
    assert [options.log, options.allow_files, not options.allow_urls].count(False) == 1


# ---- egresses, retries


@row("egress.local_address")
def egress_local_address(ran: Ran) -> None:
    everybody(ran)
    assert ran.ann.remote_address == "127.0.0.5"


@row("egress.weight")
def egress_weight(ran: Ran) -> None:
    everybody(ran)
    assert {line["egress"] for line in ran.lines.values()} <= {"a", "b"}


class Greylist:
    """Refuses each recipient once."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def on_rcpt(self, session: Any, address: str, parameters: Any) -> None:
        if address not in self.seen:
            self.seen.add(address)
            raise Refuse(451, "Greylisted, try again later", enhanced="4.7.1")


@row("retry.delays", "retry.classes", "retry.jitter", hooks=Greylist)
def retry_delays(ran: Ran) -> None:
    everybody(ran)
    assert ran.summary["attempts"] == 6


@row("retry.delays none", fault=["rcpt:451 4.3.0 later"])
def retry_delays_none(ran: Ran) -> None:
    assert (ran.summary["failed"], ran.summary["attempts"]) == (3, 3)


@row("retry.give_up_after", fault=["rcpt:451 4.3.0 later"])
def give_up_after(ran: Ran) -> None:
    assert (ran.summary["failed"], ran.summary["attempts"]) == (3, 3)


@row("retry.patience")
def patience(ran: Ran) -> None:
    assert (ran.report.exit_code, ran.summary["pending"]) == (3, 3)


@row("retry.relay", hooks=Greylist)
def retry_relay(ran: Ran) -> None:
    everybody(ran)
    by = {(event["event"], event["recipient"]): event["relay"] for event in ran.events if "recipient" in event}
    for address in ALL:
        assert {by["deferred", address], by["delivered", address]} == {"one", "two"}


@row("stop_if", fault=["rcpt:550 5.1.1 unknown@1/2"])
def stop_if(ran: Ran) -> None:
    assert ran.report.exit_code == 3
    assert ran.summary["failed"] >= 5
    assert ran.summary["pending"] > 0
    assert "stop_if" in str(ran.report.error)


class Throttling:
    """Takes the first recipient and asks for less at the second; then takes everybody."""

    def __init__(self) -> None:
        self.asked = 0

    def on_rcpt(self, session: Any, address: str, parameters: Any) -> None:
        self.asked += 1
        if self.asked == 2:
            raise Refuse(421, "Our system has detected an unusual rate of mail", enhanced="4.7.28")


@row("limits.adaptive", hooks=Throttling)
def adaptive(ran: Ran) -> None:
    everybody(ran)
    assert "throttled" in {event["event"] for event in ran.events}


@row("limits.adaptive off", hooks=Throttling)
def adaptive_off(ran: Ran) -> None:
    everybody(ran)
    assert "throttled" not in {event["event"] for event in ran.events}


@row("limits.window")
def window(ran: Ran) -> None:
    """This one is always open."""
    everybody(ran)


@row("limits.ramp")
def ramp(ran: Ran) -> None:
    everybody(ran)
    assert ran.summary["seconds"] >= 0.15


@row("limits.burst")
def burst(ran: Ran) -> None:
    """At one an hour the others would come tomorrow."""
    everybody(ran)


@row("limits.domains")
def limits_domains(ran: Ran) -> None:
    """Ann's domain and Bob's are one group: one of them at once, the other a tenth of a second later."""
    everybody(ran)
    assert ran.summary["seconds"] >= 0.09


@row("limits.domains by MX", "limits.dns_server", needs="dns")
def limits_by_mx(ran: Ran) -> None:
    """As above: mail.example takes the mail of both domains."""
    limits_domains(ran)
    asked = {name for name, _, _ in ran.around.asked}
    assert asked | {"example.com"} == {"example.com", "example.org", "example.net"}


@row("relays.weight")
def weight(ran: Ran) -> None:
    carried = {name: relay["delivered"] for name, relay in ran.summary["relays"].items()}
    assert carried["strong"] + carried["weak"] == 200
    assert carried["strong"] > carried["weak"]


@row("relays.backup")
def backup(ran: Ran) -> None:
    everybody(ran)
    assert {line["relay"] for line in ran.lines.values()} == {"main"}
