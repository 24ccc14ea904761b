"""Where a run's events go: the file and the webhook of its manifest."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkmail.errors import ConfigError
from bulkmail.job.specs import EventsSpec

if TYPE_CHECKING:
    from bulkmail.job.event_file import EventWriter
    from bulkmail.job.webhook import Webhook

LOGGER = logging.getLogger("bulkmail.job")


class Outlets:
    """spec: None where there are none; nothing is loaded then."""

    def __init__(self, spec: EventsSpec | None) -> None:
        self._spec = spec
        self._file: EventWriter | None = None
        self._webhook: Webhook | None = None

    def open_file(self) -> None:
        """Before there is a journal. ConfigError: it cannot be written, and nothing is to be sent."""
        if self._spec is not None and self._spec.file is not None:
            from bulkmail.job.event_file import EventWriter

            try:
                self._file = EventWriter(str(self._spec.file))
            except OSError as error:
                raise ConfigError(f"{self._spec.file}: events cannot be written: {error.strerror}") from None

    def start(self, job: str, journal: Path) -> None:
        """The journal is locked: what an earlier run left for the webhook is ours."""
        if self._spec is not None and self._spec.webhook is not None:
            from bulkmail.job.webhook import Webhook

            self._webhook = Webhook(self._spec.webhook, job, journal)
            self._webhook.start()

    def put(self, event: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.put(event)
        if self._webhook is not None:
            self._webhook.put(event)

    def figures(self) -> dict[str, Any]:
        """{"webhook": {"delivered", "waiting", "dropped", "last_error"}}, or {} where there is none."""
        return {"webhook": self._webhook.figures()} if self._webhook is not None else {}

    async def close(self) -> None:
        """What waits goes out, as long as that does not take long."""
        try:
            if self._webhook is not None:
                await asyncio.to_thread(self._webhook.close)
        finally:
            self.close_file()

    def close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
            if file.error is not None:
                LOGGER.warning("events are missing in the file: %s; the journal has every outcome", file.error.strerror)
