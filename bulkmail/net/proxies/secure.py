"""https://: TLS with the proxy itself, before anything is asked of it."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from bulkmail.errors import ConfigError, ProxyError, TimedOut
from bulkmail.net import tls
from bulkmail.net.line import Line, SocketLine, encrypted
from bulkmail.proxyurl import ProxyUrl
from bulkmail.url import Options

# In place of the words for relays, where those name options that a proxy has not.
_WORDS: Final = {
    "clear": "it does not speak TLS here (an http:// proxy is one without)",
    "version": "no common TLS version, TLS 1.2 is the lowest",
    "no own certificate": "it wants a client certificate, which proxies are not given",
    "own certificate": "it wants a client certificate, which proxies are not given",
    "no agreement": "it found no common cipher, or wants a client certificate, which proxies are not given",
    "unknown name": "it has no certificate for {name} ('server_name' of the proxy says which name to ask for)",
    "name": "the certificate is not for {name} ('server_name' of the proxy says which name to expect)",
    "authority": "the certificate is not from a known authority: {said} ('ca_file' of the proxy says where one is)",
    "closed": "it closed the connection during the handshake",
}


async def enter(proxy: ProxyUrl, line: Line, deadline: float, loop: asyncio.AbstractEventLoop) -> Line:
    """The line on which the proxy's protocol is spoken. The line that is given is taken over: on failure it is closed.

    raises  ProxyError, TimedOut(phase="proxy"), ConfigError (its ca_file)
    """
    if isinstance(line, SocketLine):
        by_a_handler, line.secured = line.secured, False  # it was about this proxy, not about what is behind
    else:
        by_a_handler = False
    if proxy.scheme != "https" or by_a_handler:
        return line
    options = Options(ca_file=proxy.ca_file, server_name=proxy.server_name)
    name = tls.server_hostname(options, proxy.host)
    started = loop.time()
    try:
        context = tls.client_context(options, proxy.host)
        async with asyncio.timeout_at(deadline):
            return await encrypted(line, context, name, max(1.0, deadline - started), loop)
    except ConfigError as error:
        line.close()
        raise ConfigError(f"proxy {proxy}: {error}") from error
    except TimeoutError:
        seconds = loop.time() - started
        raise TimedOut(f"proxy {proxy}: no end of the TLS handshake, after {seconds:.3g} s", phase="proxy") from None
    except OSError as error:
        said = tls.failure(error, name, _WORDS)
        refused = isinstance(error, ssl.SSLCertVerificationError)
        raise ProxyError(f"proxy {proxy}: TLS with it failed: {said}", proxy=str(proxy), permanent=refused) from error
