"""`Job`: a manifest, checked, and run to its end; what a run leaves behind is in the journal."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from bulkmail.errors import ConfigError, ManifestError
from bulkmail.job.manifest import Durability, Manifest, Workers, load_manifest
from bulkmail.job.results import Finding, OnEvent, Report

if TYPE_CHECKING:
    from bulkmail.job.variants import AnyMessage


class Job:
    """A manifest that can be run. Made by `load`, which raises ManifestError with all problems at once.

    run() is for code that is not async, run_async() for code that is. Errors before anything is sent are raised
    (ManifestError, JournalError, ConfigError); what happens afterwards is in the Report.
    """

    def __init__(self, manifest: Manifest, compiled: AnyMessage, reread: Callable[[], Manifest] | None = None) -> None:
        """reread: loads the manifest again, for reload()."""
        self.manifest, self.compiled = manifest, compiled
        self._reread = reread
        self._run: Any = None
        self._stops = 0
        self._orders: list[Callable[[Any], None]] = []  # given before the run has begun

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        variables: Mapping[str, str] | None = None,
        rate: str | None = None,
        connections: int | None = None,
        wire_log: str | None = None,
        durability: Durability | None = None,
        workers: Workers | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Read and check a manifest, and compile its message.

        variables    template variables that win over the manifest's defaults (`--set`)
        rate, connections, wire_log, durability, workers   in place of the manifest's
        """
        from bulkmail.job.outputs import check_outputs
        from bulkmail.job.variants import compile_job

        read = functools.partial(
            load_manifest,
            os.path.abspath(path),
            environ=os.environ if environ is None else environ,
            variables=dict(variables or {}),
            rate=rate,
            connections=connections,
            wire_log=wire_log,
            durability=durability,
            workers=workers,
        )
        manifest = read()
        check_outputs(manifest)
        compiled = compile_job(manifest)
        if manifest.mode == "shared" and not compiled.shared:
            raise ManifestError(
                f"{manifest.path}: mode is 'shared' and the message differs from recipient to recipient; "
                "take out the template marks, or the mode",
                path="$.mode",
            )
        return cls(manifest, compiled, read)

    # -- without sending

    def check(self, *, dns: bool = False, dns_server: str | None = None) -> list[Finding]:
        """Everything that can be found without connecting to a relay: every row of the recipients against the message,
        and the lint (docs/lint.md).

        dns         ask the DNS too (SPF, DKIM, DMARC, MX, PTR); needs bulkmail[dns], and takes at most some seconds
        dns_server  by this server, such as "192.0.2.53" or "192.0.2.53:5300", not by those of the system
        """
        from bulkmail.job.check import check_job

        return check_job(self.manifest, self.compiled, dns=dns, dns_server=dns_server)

    # -- sending

    def run(
        self,
        *,
        resume: bool = False,
        fresh: bool = False,
        auto: bool = False,
        in_doubt: str = "skip",
        on_event: OnEvent | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        test_to: str | None = None,
        power: bool = False,
    ) -> Report:
        """Send. Not from a running event loop: use run_async() there.

        resume    go on with an existing journal; fresh: put the old one aside; auto: resume if there is one
        in_doubt  "skip" leaves those whose end the last run did not see; "resend" sends to them again
        on_event  is called with a dict for each event (docs/manifest.md), from the thread that runs the job; if it
                  raises, the run stops as by stop(), and run() raises that
        limit     the first `limit` recipients only
        dry_run   everything but the network and the journal
        test_to   render the first recipients (limit, 1 by default), deliver to this address; no journal
        power     as the manifest's "durability": "power": a claim is on the disk before its message leaves
        """
        from bulkmail.net.loop import run

        return run(
            self.run_async(
                resume=resume,
                fresh=fresh,
                auto=auto,
                in_doubt=in_doubt,
                on_event=on_event,
                limit=limit,
                dry_run=dry_run,
                test_to=test_to,
                power=power,
            )
        )

    async def run_async(
        self,
        *,
        resume: bool = False,
        fresh: bool = False,
        auto: bool = False,
        in_doubt: str = "skip",
        on_event: OnEvent | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        test_to: str | None = None,
        power: bool = False,
    ) -> Report:
        """As run()."""
        from bulkmail.job.run import Run

        if resume + fresh + auto > 1:
            raise ConfigError("resume, fresh and auto exclude each other")
        if in_doubt not in ("skip", "resend"):
            raise ConfigError(f"in_doubt is {in_doubt!r}, expected 'skip' or 'resend'")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit is {limit}, expected at least 1")
        if test_to is not None or dry_run:
            from bulkmail.job import rehearsal
        if test_to is not None:
            return await rehearsal.send_test(self.manifest, self.compiled, test_to, limit or 1)
        if dry_run:
            return rehearsal.dry_run(self.manifest, self.compiled, limit)
        journal = self.manifest.journal
        begin = "resume" if resume or (auto and journal.exists()) else "fresh" if fresh else "new"
        run = self._run = Run(self.manifest, self.compiled, on_event, self._reread)
        for order in self._orders:
            run.order(order)
        self._orders.clear()
        run.open(begin, in_doubt, limit, "power" if power else self.manifest.durability)
        if self._stops:
            run.stop()
        try:
            return await run.send()
        finally:
            self._stops = 0

    def stop(self) -> None:
        """Begin nothing more: what is in flight is finished and recorded. A second call abandons that too.

        Safe from a signal handler and from other threads.
        """
        self._stops += 1
        if self._run is not None:
            self._run.stop(abandon=self._stops > 1)

    def pause(self) -> None:
        """Begin nothing more until resume(): what is in flight is finished and recorded, idle connections are closed
        after their `idle_timeout`. Safe from other threads, as are resume, set and reload (docs/control.md)."""
        self._order(lambda steering: steering.pause())

    def resume(self) -> None:
        """Go on after pause()."""
        self._order(lambda steering: steering.resume())

    def set(self, limits: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Change limits of the run, not of the manifest: set(rate="100/s"), set({"relay.main.connections": 5}).

        None as a rate: no limit. raises ConfigError for a name or value that is none; then nothing is changed
        """
        from bulkmail.job.changes import parse_changes
        from bulkmail.job.regulator import names_of

        wanted = {**(limits or {}), **more}
        parse_changes(wanted, names_of(self.manifest))
        self._order(lambda steering: steering.set(wanted))

    def reload(self) -> None:
        """Read the manifest again and take up its limits. One that is broken is logged and changes nothing."""
        self._order(lambda steering: steering.reload())

    def _order(self, order: Callable[[Any], None]) -> None:
        if self._run is not None:
            self._run.order(order)
        else:
            self._orders.append(order)

    def progress(self) -> dict[str, Any]:
        """The summary as it stands now; {} before the run has begun."""
        return self._run.tally.summary() if self._run is not None and self._run.tally is not None else {}
