"""Events posted to a URL: in batches, signed, tried again; signatures and headers of Standard Webhooks 1.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

Two threads: one makes batches of what the job tells, the other posts them. Mail never waits for either. Events are a
view, the journal is the record: what a killed run had not yet put into a batch is lost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import random
import secrets
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bulkmail.job.specs import WebhookSpec
from bulkmail.job.webhook_http import Answer, Poster
from bulkmail.job.webhook_outbox import Batch, Outbox

LOGGER = logging.getLogger("bulkmail.job")
MAX_WAITING = 50_000  # events that no batch has taken yet: seconds of a thread that does not get to run
FIRST_PAUSE = 1.0  # seconds after the first failure, doubled after each further one
LONGEST_PAUSE = 60.0
FLUSH_SECONDS = 10.0  # what the end of a run waits for the last batches
GONE = 410  # the receiver wants no more (Standard Webhooks): nothing is posted for the rest of the run
UNFIT = frozenset((400, 413, 422))  # these very bytes are refused: sending them again would hold up all others


class Webhook:
    """job, journal: named in each request; the outbox stands beside the journal.

    put() from the job's thread, start() and close() from any.
    """

    def __init__(self, spec: WebhookSpec, job: str, journal: Path, outbox: Outbox | None = None) -> None:
        self._spec, self._about = spec, {"job": job, "journal": str(journal)}
        self._outbox = outbox or Outbox(journal.with_name(journal.name + ".events"))
        self._poster = Poster(spec)
        self._events: deque[dict[str, Any]] = deque()
        self._woken = threading.Event()
        self._ending = False
        self._overrun = 0
        self.delivered = 0  # events
        self.last_error: str | None = None
        self._gone = False
        self._collector = threading.Thread(target=self._collect, name="bulkmail-events", daemon=True)
        self._sender = threading.Thread(target=self._send, name="bulkmail-webhook", daemon=True)

    def start(self) -> None:
        self._outbox.open()
        self._collector.start()
        self._sender.start()

    def put(self, event: dict[str, Any]) -> None:
        """An append; the event is not to be changed afterwards."""
        if self._spec.events is not None and event["event"] not in self._spec.events:
            return
        if len(self._events) >= MAX_WAITING:
            self._overrun += 1
            return
        self._events.append(event)
        if len(self._events) >= self._spec.batch:
            self._woken.set()

    def figures(self) -> dict[str, Any]:
        """Events: delivered in this run, waiting (here or in the file), dropped; and the last failure, or None."""
        return {
            "delivered": self.delivered,
            "waiting": len(self._events) + self._outbox.waiting(),
            "dropped": self._overrun + self._outbox.dropped,
            "last_error": self.last_error or self._outbox.error,
        }

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Post what waits, for so long at most; leave the rest in the file. Blocks. Idempotent."""
        deadline = time.monotonic() + seconds
        self._ending = True
        self._woken.set()
        self._collector.join(max(0.0, deadline - time.monotonic()))
        self._outbox.end()
        self._sender.join(max(0.0, deadline - time.monotonic()))
        self._outbox.close()
        self._poster.abort()
        figures = self.figures()
        if figures["waiting"] or figures["dropped"]:
            LOGGER.warning(
                "webhook %s: %d events wait for the next run in %s, %d are lost (%s); the journal has every outcome",
                self._poster.name, figures["waiting"], self._outbox.path, figures["dropped"], figures["last_error"],
            )  # fmt: skip

    # -- batches

    def _collect(self) -> None:
        while not self._ending:
            self._woken.wait(self._spec.every)
            self._woken.clear()
            self._pack()
        self._pack()

    def _pack(self) -> None:
        while self._events:
            count = min(len(self._events), self._spec.batch)
            self._outbox.add(self._batch([self._events.popleft() for _ in range(count)]))

    def _batch(self, events: list[dict[str, Any]]) -> Batch:
        made = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        payload = {"type": "bulkmail.events", "timestamp": made, "data": {**self._about, "events": events}}
        return Batch(f"msg_{secrets.token_hex(16)}", len(events), encode(payload))

    # -- requests

    def _send(self) -> None:
        failures = 0
        while (batch := self._outbox.head()) is not None:
            answer = Answer(GONE) if self._gone else self._poster.post(batch.body, self._headers(batch))
            if answer.ok:
                failures = 0
                self.delivered += batch.count
                self._outbox.done(batch)
            elif answer.status == GONE or answer.status in UNFIT:
                self._refused(answer)
                self._outbox.done(batch, dropped=True)
            else:
                failures += 1
                self._failed(answer, failures)
                if self._outbox.pause(pause_after(failures, answer.retry_after, random.random())):
                    break  # the next run goes on
        self._poster.close()

    def _headers(self, batch: Batch) -> dict[str, str]:
        now = int(time.time())
        given = {"Content-Type": "application/json", "User-Agent": "bulkmail", **dict(self._spec.headers)}
        given |= {"webhook-id": batch.id, "webhook-timestamp": str(now)}
        if self._spec.key is not None:
            given["webhook-signature"] = signature(self._spec.key, batch.id, now, batch.body)
        return given

    def _refused(self, answer: Answer) -> None:
        if not self._gone:
            self.last_error = answer.said
            LOGGER.warning("webhook %s refuses events: %s", self._poster.name, answer.said)
        self._gone = self._gone or answer.status == GONE

    def _failed(self, answer: Answer, failures: int) -> None:
        self.last_error = answer.said
        level = logging.WARNING if failures == 1 else logging.INFO
        LOGGER.log(level, "webhook %s: %s; it is tried again", self._poster.name, answer.said)


def signature(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature: "v1," and the HMAC-SHA256 of id.timestamp.body in base64."""
    signed = b"%s.%d.%s" % (id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def pause_after(failures: int, retry_after: float | None, chance: float) -> float:
    """Seconds before the next try, after so many failures in a row. chance: 0 to 1, so that several jobs part."""
    growing: float = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE)
    return max(growing * (0.5 + chance / 2), retry_after or 0.0)


def encode(payload: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(payload, default=str)
    except TypeError:  # a lone surrogate, which orjson refuses and json escapes
        return json.dumps(payload, default=str).encode()
