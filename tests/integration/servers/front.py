"""HAProxy or nginx in front of a sink, with a configuration of docs/sink-proxy.md; only places and files differ."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .certificates import Certificates
from .common import HOST, free_port, missing, require, stop, wait_until
from .haproxy import _ended, _listens

PAGE = Path(__file__).parents[3] / "docs" / "sink-proxy.md"
HAPROXY = "global\n    log stdout format raw local0\ndefaults\n    log global\n    option tcplog\n" + "".join(
    f"    timeout {what} 30s\n" for what in ("connect", "client", "server")
)
NGINX_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
NGINX = "load_module {module};\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"


def shown(language: str) -> list[str]:
    """The page's configurations in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@contextmanager
def front(folder: Path, language: str, text: str, sink_port: int, certificates: Certificates) -> Iterator[int]:
    """Run it; the port that it listens on."""
    program, port = require(language), free_port()
    folder.mkdir()
    text, found = re.subn(r"(bind |listen )(?::|)\d+", rf"\g<1>{HOST}:{port}", text)
    assert found == 1 and "127.0.0.1:2525" in text
    text = text.replace("127.0.0.1:2525", f"{HOST}:{sink_port}").replace("inter 2s", "inter 50ms")
    text = text.replace("/etc/haproxy/mail.pem", str(certificates.chain_file))
    text = text.replace("/etc/haproxy/clients.pem", str(certificates.ca_file))
    config, log = folder / "front.cfg", folder / "log"
    config.write_text((HAPROXY if language == "haproxy" else nginx_head(folder)) + text)
    arguments = ["-db", "-f", str(config)] if language == "haproxy" else ["-p", str(folder), "-c", str(config)]
    with log.open("wb") as out:
        process = subprocess.Popen([program, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_until(lambda: _listens(HOST, port), str(process.args), lambda: _ended(process, log))
        yield port
    finally:
        stop(process)


def nginx_head(folder: Path) -> str:
    if not NGINX_MODULE.exists():
        missing("nginx has no stream module")
    return NGINX.format(module=NGINX_MODULE, folder=folder)
