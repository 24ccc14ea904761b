"""Every option that Nodemailer and aiosmtplib document is either ours too or is answered with what to write instead."""

from __future__ import annotations

import re

import pytest

from bulkmail.errors import ConfigError
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.url import OPTIONS, parse_endpoint

# Theirs, and what the sentence must name.
NODEMAILER = {
    "host": "URL",
    "port": "URL",
    "secure": "smtps://",
    "service": "host",
    "ignoreTLS": "tls=never",
    "requireTLS": "tls=require",
    "opportunisticTLS": "tls=opportunistic",
    "tls.servername": "server_name",
    "tls.rejectUnauthorized": "verify",
    "tls.minVersion": "tls_min",
    "tls.ca": "ca_file",
    "tls.cert": "cert_file",
    "tls.key": "key_file",
    "localAddress": "local_address",
    "connectionTimeout": "connect_timeout",
    "greetingTimeout": "greeting_timeout",
    "dnsTimeout": "dns_timeout",
    "socketTimeout": "command_timeout and data_timeout",
    "auth.user": "URL",
    "auth.pass": "URL",
    "authMethod": "auth",
    "auth.accessToken": "token",
    "auth.provisionCallback": "token (a function)",
    "auth.clientId": "oauth2",
    "auth.clientSecret": "oauth2",
    "auth.refreshToken": "oauth2",
    "auth.accessUrl": "token_url",
    "auth.expires": "token_command",
    "auth.serviceClient": "token_command",
    "auth.privateKey": "token_command",
    "customAuth": "register_auth",
    "forceAuth": "always so",
    "pool": "connections",
    "maxConnections": "connections",
    "maxMessages": "messages_per_connection",
    "maxRequeues": "by itself",
    "rateLimit": "rate",
    "rateDelta": "rate",
    "lmtp": "lmtp://",
    "socket": "Connection",
    "getSocket": "proxy",
    "allowInternalNetworkInterfaces": "address",
    "debug": "wire_log",
    "transactionLog": "wire_log",
    "logger": "log",
    "disableFileAccess": "allow_files=false",
    "disableUrlAccess": "allow_urls",
    "dkim": "message",
    "use8BitMime": "Envelope",
    "dsn": "Envelope",
    "size": "Envelope",
    "requireTLSExtensionEnabled": "require_tls",
}
AIOSMTPLIB = {
    "hostname": "URL",
    "port": "URL",
    "username": "URL",
    "password": "URL",
    "local_hostname": "name",
    "source_address": "local_address",
    "timeout": "command_timeout and data_timeout",
    "use_tls": "smtps://",
    "start_tls": "tls=require",
    "validate_certs": "verify",
    "client_cert": "cert_file",
    "client_key": "key_file",
    "cert_bundle": "ca_file",
    "tls_context": "ca_file",
    "server_hostname": "server_name",
    "socket_path": "lmtp+unix://",
    "sock": "socket=",
    "mail_options": "Envelope",
    "rcpt_options": "Envelope",
    "oauth_token_generator": "token (a function)",
}


@pytest.mark.parametrize(("theirs", "ours"), [*NODEMAILER.items(), *AIOSMTPLIB.items()])
def test_another_mailer_s_option_is_answered_with_ours(theirs, ours):
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("smtp://mx.example.test", **{theirs: "x"})
    assert str(caught.value).startswith(f"unknown option '{theirs}': ") and ours in str(caught.value)


@pytest.mark.parametrize(("theirs", "ours"), [*NODEMAILER.items(), *AIOSMTPLIB.items()])
def test_whatever_an_answer_calls_an_option_is_one(theirs, ours):
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("smtp://mx.example.test", **{theirs: "x"})
    hint = str(caught.value).partition(": ")[2]
    named = re.match(r"use (?!an\b|Connection|Envelope|bulkmail)([a-z0-9_]+)", hint)
    assert named is None or named[1] in OPTIONS


@pytest.mark.parametrize("name", ["name", "proxy", "auth", "tls"])
def test_an_option_of_the_same_name_is_ours_too(name):
    assert name in OPTIONS


def test_options_are_those_of_the_url_and_the_call_wins():
    for made in (Connection, Mailer):
        options = made(
            "smtp://ann:secret@mx.example.test:26?connections=3&name=a.test", name="b.test"
        )._endpoint.options
        assert (options.connections, options.name) == (3, "b.test")


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("smtps://mx.example.test", {"tls": "never"}, "TLS from the start"),
        ("smtps://mx.example.test", {"tls": "opportunistic"}, "TLS from the start"),
        ("smtp://mx.example.test", {"key_file": "key.pem"}, "cert_file"),
        ("smtp://ann:secret@mx.example.test", {"token": "t"}, "one of them"),
        ("smtp://mx.example.test", {"token": "t", "token_command": ["x"]}, "one source of tokens"),
        ("lmtp+unix:///run/lmtp", {"proxy": "socks5h://127.0.0.1:1080"}, "proxy"),
        ("smtp://mx.example.test", {"connect_timeout": 0}, "more than 0"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_said(url, options, words):
    with pytest.raises(ConfigError, match=words):
        Connection(url, **options)


def test_a_socket_and_a_transport_exclude_each_other():
    with pytest.raises(ConfigError, match="not both"):
        Connection("smtp://mx.example.test", socket=object(), transport=object())
