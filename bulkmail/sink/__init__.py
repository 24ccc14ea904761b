"""An SMTP and LMTP server that receives: for tests, staging and load."""

from bulkmail.sink.refuse import Refuse
from bulkmail.sink.server import Server
from bulkmail.sink.session import Envelope, Message, Session
from bulkmail.sink.threaded import SmtpSink

__all__ = ["Envelope", "Message", "Refuse", "Server", "Session", "SmtpSink"]
