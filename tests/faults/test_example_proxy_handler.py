"""examples/proxy_handler: a package that brings a scheme by its entry point, used as installed."""

from __future__ import annotations

import socket
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

import pytest

from bulkmail import proxyhandlers
from bulkmail.errors import ProxyError
from bulkmail.pool.mailer import Mailer
from bulkmail.smtp.connection import Connection
from bulkmail.smtp.envelope import Envelope
from faults.mails import WELL
from faults.scripted import scripted

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "proxy_handler"
ANN = Envelope("news@example.test", ["ann@example.test"])
BIG = b"line of a message that is larger than a socket takes at once\r\n" * 20_000

if not EXAMPLE.exists():
    pytest.skip("an installed package has no examples", allow_module_level=True)
if not hasattr(socket, "AF_UNIX"):
    pytest.skip("a program's input and output are a Unix socket pair", allow_module_level=True)

# What nc does; its two arguments are host and port.
RELAY = """
import os, select, socket, sys
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    ready, _, _ = select.select([0, line], [], [])
    if 0 in ready:
        data = os.read(0, 65536)
        if not data:
            break
        line.sendall(data)
    if line in ready:
        data = line.recv(65536)
        if not data:
            break
        while data:
            data = data[os.write(1, data):]
"""


@pytest.fixture
def proxy(tmp_path, monkeypatch):
    """The URL of a command:// proxy, the example being installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    installed = tmp_path / "site" / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in points.items()) for group, points in groups.items()]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(installed.parent))
    monkeypatch.setattr(proxyhandlers, "_handlers", {})
    program = tmp_path / "a relay & more.py"
    program.write_text(RELAY)
    return f"command://{quote(sys.executable)}?{quote(str(program))}&%h&%p"


def test_mail_goes_through_the_program(run, proxy):
    async def main():
        async with scripted(WELL) as server:
            async with Connection(server.url, proxy=proxy) as connection:
                receipt = await connection.send(ANN, BIG)
            assert receipt.accepted == ANN.addresses
            async with Mailer(server.url, proxy=proxy) as mailer:
                other = await mailer.send(b"Subject: x\r\n\r\nhello\r\n", envelope=ANN)
            return receipt.egress, other.egress

    first, second = run(main())
    assert first == second and first.startswith("command://") and first.endswith("?***")


@pytest.mark.parametrize(
    ("program", "words"), [("/nowhere/nc", "there is no program '/nowhere/nc'"), ("/bin/false", "greeting")]
)
def test_a_program_that_is_not_there_or_ends(run, proxy, program, words):
    async def main():
        with pytest.raises((ProxyError, ConnectionError)) as caught:
            await Connection("smtp://mx.example.test", proxy=f"command://{program}?%h&%p").connect()
        return str(caught.value)

    assert words in run(main())
