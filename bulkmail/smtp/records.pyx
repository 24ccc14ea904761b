# What there is one of for each message, made by a caller or for one: an envelope, a receipt. Dataclasses to whoever
# looks at them; in C, so that a stream of messages costs little more than its bytes.
#
# Errors    ConfigError, when an Envelope is made (smtp.envelope: checked).
cimport cython
from cython.dataclasses cimport dataclass, field


cdef class Judged:
    # not a field of the dataclass, which has every attribute of its own class for one
    pass


@cython.freelist(256)
@dataclass(frozen=True)
cdef class Envelope(Judged):
    """Sender and recipients of one transaction (RFC 5321 section 2.3.1), and what it asks of the server.

    sender       address, or "" for the null sender
    recipients   addresses or `Recipient`s
    size         bytes, declared for data that is streamed; what is at hand is measured
    body         None (what the data needs); "7bit" (declares nothing); "8bitmime" and "binarymime" insist, and
                 binarymime leaves the newlines as they are
    smtputf8     insists on SMTPUTF8 (RFC 6531), as for a header in UTF-8. Addresses that need it ask by themselves
    dsn          `Dsn`; left out where the server does not offer it
    require_tls  only over TLS from here to the mailbox (RFC 8689); refused where the server does not offer REQUIRETLS
    deliver_by   `DeliverBy`
    mt_priority  -9 to 9 (RFC 6710); left out where the server does not offer it
    hold_for     seconds that the server is to hold the message (RFC 4865); refused where it does not offer
                 FUTURERELEASE, or holds messages for a shorter time
    hold_until   the same as a datetime with a time zone, or its ISO 8601 text

    Times are rounded up to whole seconds.
    """

    sender: object
    recipients: object
    size: object = None
    body: object = None
    smtputf8: object = False
    dsn: object = None
    require_tls: object = False
    deliver_by: object = None
    mt_priority: object = None
    hold_for: object = None
    hold_until: object = None

    def __post_init__(self):
        if self._is_plain():
            self.recipients, self.plain = tuple(self.recipients), True
        else:
            from bulkmail.smtp.envelope import checked
            self.recipients, self.hold_for, self.hold_until = checked(self)

    cdef bint _is_plain(self) except -1:
        if type(self.sender) is not str or self.smtputf8 is not False or self.require_tls is not False:
            return False
        if (self.size is not None or self.body is not None or self.dsn is not None or self.deliver_by is not None
                or self.mt_priority is not None or self.hold_for is not None or self.hold_until is not None):
            return False
        if type(self.recipients) is not list and type(self.recipients) is not tuple:
            return False
        for recipient in self.recipients:
            if type(recipient) is not str:
                return False
        return True

    @property
    def addresses(self):
        """The recipients' addresses, as given."""
        return [recipient if isinstance(recipient, str) else recipient.address for recipient in self.recipients]


@cython.freelist(1024)
@dataclass
cdef class Receipt:
    """What became of one message.

    accepted, rejected  recipients; reply: the server's last word; tls: "TLSv1.3" or None
    bytes               size of the content
    envelope_seconds, data_seconds   from MAIL to DATA's reply, and from there to the end
    index, error        of Mailer.send_many: place in the input, and why nobody was accepted (or None)
    """

    accepted: list = field(default_factory=list)
    rejected: list = field(default_factory=list)
    reply: object = None
    message_id: object = None
    relay: object = None
    egress: object = None
    tls: object = None
    bytes: cython.Py_ssize_t = 0
    envelope_seconds: cython.double = 0.0
    data_seconds: cython.double = 0.0
    index: cython.Py_ssize_t = 0
    error: object = None
