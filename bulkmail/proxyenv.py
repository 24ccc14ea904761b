"""`"proxy": "env"`: the proxy and the hosts without one, as the environment has them for curl and others.

Each variable may be written in lower case, which then wins, and an empty one is not set: both as in curl
(lib/url.c, detect_proxy). What is foreign there, since other programs read these variables too, never stops the mail:
entries of NO_PROXY that mean nothing here are passed over with one warning.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping

from bulkmail.errors import ConfigError
from bulkmail.noproxy import MAX_RULES, NoProxy, Rule, parse_rule
from bulkmail.proxyurl import Chain, parse_proxy

ORDER = ("SMTP_PROXY", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")  # the first that is set

LOGGER = logging.getLogger("bulkmail.proxy")

_has_scheme = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://").match


def proxy_from(environ: Mapping[str, str]) -> Chain | None:
    """The proxy that the environment names; None: there is none.

    A value without a scheme is an http:// proxy, as in curl.

    raises  ConfigError  naming the variable, without the password
    """
    for upper in ORDER:
        name, value = _variable(environ, upper)
        if value:
            return parse_proxy(value if _has_scheme(value) else f"http://{value}", f"environment variable {name}")
    return None


def no_proxy_from(environ: Mapping[str, str]) -> NoProxy:
    """The rules of NO_PROXY. A bare name is also about what is below it, as in curl."""
    return _rules(*_variable(environ, "NO_PROXY"))


def _variable(environ: Mapping[str, str], upper: str) -> tuple[str, str]:
    """The variable's name as it is set, and its value; "" if it is not set."""
    for name in (upper.lower(), upper):
        value = environ.get(name, "").strip()
        # A web server sets HTTP_PROXY from a request's header "Proxy" when it runs a CGI program: any visitor could
        # divert the mail (CVE-2016-5385 and others, "httpoxy").
        if value and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
            return name, value
    return upper, ""


@functools.lru_cache(maxsize=4)  # so that the warning comes once, and not with each relay and each time it is read
def _rules(name: str, text: str) -> NoProxy:
    words = text.replace(",", " ").split()
    rules: list[Rule] = []
    reasons = [f"it has {len(words)} entries, only the first {MAX_RULES} count"] if len(words) > MAX_RULES else []
    for place, word in enumerate(words[:MAX_RULES], 1):
        try:
            rules.append(parse_rule(word, f"entry {place}", names_cover_below=True))
        except ConfigError as error:
            reasons.append(str(error))
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        LOGGER.warning("environment variable %s: %s%s: passed over", name, reasons[0], more)
    return NoProxy(tuple(dict.fromkeys(rules)))
