"""The pytest plug-in: fixtures `smtp_sink` and `smtp_sink_factory`, marker `smtp_sink`. docs/testing.md shows them.

pytest loads it wherever bulkmail is installed, so it imports nothing else until a test asks for a sink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bulkmail.sink.threaded import SmtpSink

MARKER = "smtp_sink(hooks=None, tls=False, auth=None, ...): options of the server behind the fixture smtp_sink"
TLS = {False: None, None: None, True: "starttls", "starttls": "starttls", "implicit": "implicit"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def smtp_sink(request: pytest.FixtureRequest, smtp_sink_factory: Callable[..., SmtpSink]) -> SmtpSink:
    """A running SMTP server that receives: `.url`, `.host`, `.port`, `.messages`, `.wait_for(n)`, `.fail_next(...)`."""
    return smtp_sink_factory(**marked_options(request.node))


@pytest.fixture
def smtp_sink_factory(request: pytest.FixtureRequest) -> Iterator[Callable[..., SmtpSink]]:
    """smtp_sink_factory(hooks=None, tls=False, **options) -> a running sink; all of them end with the test."""
    with ExitStack() as running:

        def start(hooks: object = None, *, tls: bool | str = False, **options: Any) -> SmtpSink:
            from bulkmail.sink.threaded import SmtpSink

            if read_tls(tls) and "tls_cert" not in options:
                options |= request.getfixturevalue("_smtp_sink_certificate")
            if read_tls(tls) == "implicit":
                options["tls_implicit"] = True
            return running.enter_context(SmtpSink(hooks, **options))

        yield start


@pytest.fixture(scope="session")
def _smtp_sink_certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Options with a certificate for localhost, 127.0.0.1 and ::1 that nobody else trusts; made once a run."""
    try:
        import trustme
    except ImportError:
        raise pytest.UsageError(
            "a sink with tls= makes its certificate with trustme, which is not installed: "
            "`pip install trustme`, or give tls_cert= and tls_key="
        ) from None
    folder = tmp_path_factory.mktemp("smtp_sink")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    made = authority.issue_cert("localhost", "127.0.0.1", "::1")
    made.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return {"tls_cert": folder / "server.pem", "ca_file": folder / "ca.pem"}


def marked_options(node: pytest.Item) -> dict[str, Any]:
    """Of all smtp_sink markers: the test's own win over its class's, and those over its module's."""
    options: dict[str, Any] = {}
    for marker in node.iter_markers("smtp_sink"):
        if marker.args:
            raise pytest.UsageError("the marker smtp_sink takes keywords only, such as smtp_sink(tls=True)")
        options = {**marker.kwargs, **options}
    return options


def read_tls(tls: bool | str) -> str | None:
    """None, "starttls" or "implicit"."""
    try:
        return TLS[tls]
    except (KeyError, TypeError):
        raise pytest.UsageError(f"'tls' of a sink is True, False, 'starttls' or 'implicit', not {tls!r}") from None
