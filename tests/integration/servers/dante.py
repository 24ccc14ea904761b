"""Dante (danted): SOCKS4 and SOCKS5, with rules and passwords. Not SOCKS4a: it takes the address 0.0.0.1 at its word.

Its users are those of the system; nss_wrapper gives it one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .common import HOST, free_port, require
from .proxy import PASSWORD, USER, Proxy, running, wrapped

CONFIG = """
logoutput: stderr
internal.protocol: ipv4 ipv6
external.protocol: ipv4 ipv6
internal: {host} port = {port}
external: lo
clientmethod: none
socksmethod: {method}
client pass {{ from: 0/0 to: 0/0 }}
socks block {{ from: 0/0 to: 0/0 port = {forbidden} }}
socks pass {{ from: 0/0 to: 0/0 }}
"""
PASSWD = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"
# openssl passwd -6 -salt bulkmail, of PASSWORD
HASH = "$6$bulkmail$vBj.Fc4hKwpHCn3AwcANFFjY0mwwvd/dRAPD6Wdo87xp4DXDUkEoj40JaTOlMGblvei/jXBIBmdf3f3t88h50/"


@contextmanager
def dante(folder: Path, *, login: bool = False, forbidden: int = 9, host: str = HOST) -> Iterator[Proxy]:
    """forbidden: a target port that its rules refuse. folder: an empty or new one."""
    program = require("danted")
    folder.mkdir(parents=True, exist_ok=True)
    port, config, log = free_port(), folder / "danted.conf", folder / "danted.log"
    config.write_text(CONFIG.format(host=host, port=port, method="username" if login else "none", forbidden=forbidden))
    passwd = f"{PASSWD}{USER}:x:65533:65534::/nonexistent:/bin/false\n"
    shadow = f"{USER}:{HASH}:19000:0:99999:7:::\n"
    environment = wrapped(folder, passwd=passwd, group=GROUP, shadow=shadow)
    with running([program, "-f", str(config)], port, log, host=host, environment=environment) as pid:
        yield Proxy(port, log, pid, host, PASSWORD if login else None)
