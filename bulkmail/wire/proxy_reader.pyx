# The receiver's side of the PROXY protocol, versions 1 and 2: bytes in, who the client is out. No sockets, no clock.
# "The PROXY protocol, versions 1 & 2" (haproxy.org, doc/proxy-protocol.txt). Sections cited here are that document's.
#
# Owns      the header's bytes until it is whole: MAX_V1 or MAX_V2 at most.
# Promises  the result, errors and all, does not depend on how the stream was cut: every check is made at a byte whose
#           place is fixed. What is wrong is found at its first byte; what needs the whole of a line or block, at its end.
#           No byte behind the header is looked at.
# Errors    none but MemoryError: `error` says what is wrong, in words that hold nothing of what the peer sent.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from bulkmail.wire.proxy_header import MAX_V1, SIGNATURE
from bulkmail.wire.proxy_info import ProxyInfo

# Section 2.2 lets a length be 65,535. HAProxy, whose authors wrote it, takes what its buffer of this size holds; addresses,
# names and a client's certificate (some 2,000 bytes) come to a quarter.
MAX_V2 = 16384
# Section 2.2.5.
MAX_UNIQUE_ID = 128

cdef enum State:
    START
    TEXT           # version 1, up to the protocol's name
    ENDS           # "TCP4 " or "TCP6 " was read
    ANYTHING       # "UNKNOWN" was read
    HEAD           # the 16 bytes that version 2 begins with
    BLOCK          # as many as they said
    DONE
    DEAD

cdef enum:
    FIXED = 16                 # bytes before the block of version 2
    VERSION_2 = 0x20
    COMMAND_LOCAL = 0
    COMMAND_PROXY = 1
    UNSPEC = 0
    STREAM = 1
    DATAGRAM = 2
    INET = 1
    INET6 = 2
    UNIX = 3
    TLV_HEAD = 3
    TLV_CRC32C = 0x03
    TLV_NOOP = 0x04
    TLV_UNIQUE_ID = 0x05
    TLV_SSL = 0x20
    SSL_HEAD = 5               # section 2.2.6: client flags, verify; then TLVs of its own
    NO_CRC = -1

cdef Py_ssize_t _MAX_V1 = MAX_V1, _MAX_V2 = MAX_V2, _MAX_UNIQUE_ID = MAX_UNIQUE_ID
cdef bytes _signature = SIGNATURE
cdef const unsigned char* SIGN = <const unsigned char*> PyBytes_AS_STRING(_signature)
cdef const unsigned char* WORD = b"PROXY "
cdef const unsigned char* UNKNOWN = b"PROXY UNKNOWN"
cdef enum:
    WORD_LEN = 6
    UNKNOWN_LEN = 13
    TCP_LEN = 11               # "PROXY TCP4 "
    LEAST = 15                 # "PROXY UNKNOWN\r\n"
    LEAST_ENDS = 22            # "PROXY TCP6 :: :: 0 0\r\n"

# What errors say.
NO_HEADER = "it does not begin with a PROXY header"
BAD_PROTOCOL = "version 1: the protocol is none of TCP4, TCP6 and UNKNOWN"
BAD_CHARACTER = "version 1: a character that no address or port has"
BAD_LINE_END = "version 1: a CR without its LF"
TOO_LONG = f"version 1: no line end within {MAX_V1} bytes"
BAD_FIELDS = "version 1: expected two addresses and two ports, one space between them"
BAD_ADDRESS = "version 1: an address that is none of the protocol's"
BAD_PORT = "version 1: a port is 0 to 65535 in decimal, without leading zeros"
BAD_VERSION = "version 2: the version is not 2, or the command neither LOCAL nor PROXY"
BAD_FAMILY = "version 2: an unknown address family or protocol"
TOO_SHORT = "version 2: a length too small for the addresses of the family"
TOO_LARGE = f"version 2: more than {MAX_V2} bytes"
BAD_TLV = "version 2: what follows the addresses is no list of TLVs"
BAD_CRC = "version 2: the CRC32c is not that of the header"
BAD_UNIQUE_ID = f"version 2: a unique id of more than {MAX_UNIQUE_ID} bytes"
BAD_SSL = "version 2: the SSL information cannot be read"


cdef uint32_t CRC_TABLE[256]


cdef void fill_crc_table() noexcept:
    """RFC 9260 appendix A (which replaces RFC 4960's B), bits reflected."""
    cdef uint32_t crc
    cdef int byte, bit
    for byte in range(256):
        crc = byte
        for bit in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        CRC_TABLE[byte] = crc


fill_crc_table()


cdef uint32_t crc32c(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    cdef uint32_t crc = ~<uint32_t> 0
    cdef Py_ssize_t i
    for i in range(n):
        crc = (crc >> 8) ^ CRC_TABLE[(crc ^ p[i]) & 0xFF]
    return ~crc


cdef inline unsigned int big16(const unsigned char* p) noexcept nogil:
    return (p[0] << 8) | p[1]


cdef inline bint in_ends(unsigned char c) noexcept nogil:
    return b"0" <= c <= b":" or b"a" <= c <= b"f" or b"A" <= c <= b"F" or c == b"." or c == b" "


cdef bint is_tlvs(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    """Whether p[0..n) is TLVs and nothing else."""
    cdef Py_ssize_t pos = 0
    while n - pos >= TLV_HEAD:
        pos += TLV_HEAD + big16(p + pos + 1)
    return pos == n


cdef bint split_fields(const unsigned char* p, Py_ssize_t n, const unsigned char** field, Py_ssize_t* size) noexcept nogil:
    """Whether p[0..n) is four fields, none empty, one space between them; and where they are."""
    cdef Py_ssize_t i, begin = 0
    cdef int count = 0
    for i in range(n + 1):
        if i == n or p[i] == b" ":
            if count == 4 or i == begin:
                return False
            field[count], size[count] = p + begin, i - begin
            count += 1
            begin = i + 1
    return count == 4


cdef int number_of(const unsigned char* p, Py_ssize_t n, int most) noexcept nogil:
    """A decimal number of at most five digits as section 2.1 writes it, without sign or leading zeros; else -1."""
    cdef int number = 0
    cdef Py_ssize_t i
    if n == 0 or n > 5 or (p[0] == b"0" and n > 1):
        return -1
    for i in range(n):
        if not b"0" <= p[i] <= b"9":
            return -1
        number = 10 * number + (p[i] & 15)
    return number if number <= most else -1


cdef int port_of(const unsigned char* p, Py_ssize_t n) noexcept nogil:
    return number_of(p, n, 0xFFFF)


cdef str ipv4_text(const unsigned char* p, Py_ssize_t n):
    """The address, which has one way to be written; None if it is none."""
    cdef Py_ssize_t i, begin = 0
    cdef int parts = 0
    for i in range(n + 1):
        if i == n or p[i] == b".":
            if number_of(p + begin, i - begin, 255) < 0:
                return None
            parts += 1
            begin = i + 1
    return PyUnicode_DecodeASCII(<char*> p, n, NULL) if parts == 4 else None


cdef str ipv6_text(const unsigned char* p, Py_ssize_t n):
    """The address in its shortest form (RFC 5952); None if it is none."""
    try:
        return inet_ntop(AF_INET6, inet_pton(AF_INET6, PyUnicode_DecodeASCII(<char*> p, n, NULL)))
    except OSError:
        return None


cdef class ProxyReader:
    """feed() whatever is read until `info` or `error` is set; then what feed() did not take is the client's.

    info   ProxyInfo of a valid header
    error  why there is none: one clause, nothing of the peer's in it
    """

    cdef readonly object info
    cdef readonly str error
    cdef State _state
    cdef unsigned char* _buf
    cdef Py_ssize_t _len, _room, _size    # bytes held, room for them, size of the header of version 2

    def __dealloc__(self):
        free(self._buf)

    @property
    def need(self):
        """So many bytes at least are missing, all of them the header's; 0 once it has ended."""
        if self._state >= DONE:
            return 0
        if self._state == HEAD or self._state == BLOCK:
            return (FIXED if self._state == HEAD else self._size) - self._len
        return max(1, (LEAST if self._state != ENDS else LEAST_ENDS) - self._len)

    def feed(self, bytes data not None):
        """How many bytes of `data` belong to the header. Once it has ended, well or badly: 0."""
        cdef const unsigned char* p = <const unsigned char*> PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data), used = 0, piece
        while used < n and self._state < DONE:
            piece = 1 if self._state != BLOCK else min(n - used, self._size - self._len)
            self._hold(p + used, piece)
            used += piece
            self._step(p[used - 1])
        if self._state >= DONE:
            free(self._buf)
            self._buf = NULL
        return used

    cdef int _hold(self, const unsigned char* p, Py_ssize_t n) except -1:
        cdef Py_ssize_t room
        cdef unsigned char* grown
        if self._len + n > self._room:
            room = max(2 * self._room, self._len + n, 128)  # version 1, and version 2 but for long TLVs
            grown = <unsigned char*> realloc(self._buf, room)
            if grown == NULL:
                raise MemoryError
            self._buf, self._room = grown, room
        memcpy(self._buf + self._len, p, n)
        self._len += n
        return 0

    cdef int _fail(self, str why) except -1:
        self.error = why
        self._state = DEAD
        return 0

    cdef int _finish(self, object info) except -1:
        self.info = info
        self._state = DONE
        return 0

    cdef int _step(self, unsigned char c) except -1:
        """`c` is the last byte held."""
        if self._state == START:
            self._begin(c)
        elif self._state == HEAD:
            self._read_head(c)
        elif self._state == BLOCK:
            if self._len == self._size:
                self._read_block()
        elif self._state == TEXT:
            self._read_text(c)
        else:
            self._read_rest(c)
        if self._state < HEAD and self._len == _MAX_V1:
            self._fail(TOO_LONG)
        return 0

    cdef int _begin(self, unsigned char c) except -1:
        if c == WORD[0]:
            self._state = TEXT
        elif c == SIGN[0]:
            self._state = HEAD
        else:
            self._fail(NO_HEADER)
        return 0

    # --- version 1, section 2.1

    cdef int _read_text(self, unsigned char c) except -1:
        cdef Py_ssize_t at = self._len - 1
        if at < WORD_LEN:
            if c != WORD[at]:
                self._fail(NO_HEADER)
        elif self._buf[WORD_LEN] == b"U":
            if c != UNKNOWN[at]:
                self._fail(BAD_PROTOCOL)
            elif self._len == UNKNOWN_LEN:
                self._state = ANYTHING
        elif at == 9:
            if c != b"4" and c != b"6":
                self._fail(BAD_PROTOCOL)
        elif c != (<const unsigned char*> b"PROXY TCP4 ")[at]:
            self._fail(BAD_PROTOCOL)
        elif self._len == TCP_LEN:
            self._state = ENDS
        return 0

    cdef int _read_rest(self, unsigned char c) except -1:
        cdef bint after_cr = self._buf[self._len - 2] == b"\r"
        if after_cr and c == b"\n":
            if self._state == ENDS:
                self._read_ends()
            else:
                self._finish(ProxyInfo(1))
        elif self._state == ANYTHING:
            # "UNKNOWN" ends with a space or the line does; behind the space everything is ignored.
            if self._len == UNKNOWN_LEN + 1 and c != b" " and c != b"\r":
                self._fail(BAD_PROTOCOL)
            elif self._len == UNKNOWN_LEN + 2 and after_cr:
                self._fail(BAD_LINE_END)
        elif after_cr:
            self._fail(BAD_LINE_END)
        elif not in_ends(c) and c != b"\r":
            self._fail(BAD_CHARACTER)
        return 0

    cdef int _read_ends(self) except -1:
        cdef const unsigned char* field[4]
        cdef Py_ssize_t size[4]
        if not split_fields(self._buf + TCP_LEN, self._len - 2 - TCP_LEN, field, size):
            return self._fail(BAD_FIELDS)
        cdef bint four = self._buf[9] == b"4"
        here = ipv4_text(field[0], size[0]) if four else ipv6_text(field[0], size[0])
        there = ipv4_text(field[1], size[1]) if four else ipv6_text(field[1], size[1])
        if here is None or there is None:
            return self._fail(BAD_ADDRESS)
        cdef int port = port_of(field[2], size[2]), its_port = port_of(field[3], size[3])
        if port < 0 or its_port < 0:
            return self._fail(BAD_PORT)
        return self._finish(ProxyInfo(1, (here, port), (there, its_port)))

    # --- version 2, section 2.2

    cdef int _read_head(self, unsigned char c) except -1:
        cdef Py_ssize_t at = self._len - 1
        if at < 12:
            if c != SIGN[at]:
                self._fail(NO_HEADER)
        elif at == 12:
            if c != VERSION_2 | COMMAND_LOCAL and c != VERSION_2 | COMMAND_PROXY:
                self._fail(BAD_VERSION)
        elif at == 13:
            if self._is_proxy() and (c >> 4 > UNIX or c & 15 > DATAGRAM):
                self._fail(BAD_FAMILY)
        elif at == 15:
            self._size = FIXED + big16(self._buf + 14)
            if self._size > _MAX_V2:
                self._fail(TOO_LARGE)
            elif self._is_proxy() and self._size < FIXED + self._address_size():
                self._fail(TOO_SHORT)
            elif self._size == FIXED:
                self._read_block()
            else:
                self._state = BLOCK
        return 0

    cdef bint _is_proxy(self) noexcept:
        return self._buf[12] == VERSION_2 | COMMAND_PROXY

    cdef bint _is_unspecified(self) noexcept:
        return self._buf[13] >> 4 == UNSPEC or self._buf[13] & 15 == UNSPEC

    cdef Py_ssize_t _address_size(self) noexcept:
        """Of the block of addresses; 0 where a family or protocol "unspecified" leaves open what stands there."""
        cdef int family = self._buf[13] >> 4
        if self._is_unspecified():
            return 0
        return 12 if family == INET else 36 if family == INET6 else 216

    cdef int _read_block(self) except -1:
        if not self._is_proxy():
            return self._finish(ProxyInfo(2, local=True))  # whatever follows is to be discarded
        cdef Py_ssize_t begin = FIXED + self._address_size()
        tlvs = ()
        if self._size > begin:
            if is_tlvs(self._buf + begin, self._size - begin):
                tlvs = self._tlvs(begin)
            elif not self._is_unspecified():  # there it may be addresses of a form that we do not know
                self._fail(BAD_TLV)
            if self.error is not None:
                return 0
        source, destination = self._ends()
        return self._finish(ProxyInfo(2, source, destination, tlvs))

    cdef tuple _ends(self):
        """None twice where they are none of a TCP connection."""
        cdef int family = self._buf[13] >> 4
        cdef Py_ssize_t width = 4 if family == INET else 16
        cdef char* p = <char*> self._buf + FIXED
        if self._buf[13] & 15 != STREAM or (family != INET and family != INET6):
            return None, None
        number = AF_INET if family == INET else AF_INET6
        here = inet_ntop(number, PyBytes_FromStringAndSize(p, width))
        there = inet_ntop(number, PyBytes_FromStringAndSize(p + width, width))
        p += 2 * width
        return (here, big16(<unsigned char*> p)), (there, big16(<unsigned char*> p + 2))

    cdef tuple _tlvs(self, Py_ssize_t pos):
        """(type, value) of each, padding and checksum aside; None with `error` set if one cannot be right."""
        cdef Py_ssize_t n, crc_at = NO_CRC
        cdef int kind
        found = []
        while pos < self._size:
            kind, n = self._buf[pos], big16(self._buf + pos + 1)
            pos += TLV_HEAD
            if kind == TLV_CRC32C:
                if n != 4 or crc_at != NO_CRC:
                    self._fail(BAD_CRC)
                    return None
                crc_at = pos
            elif kind == TLV_UNIQUE_ID and n > _MAX_UNIQUE_ID:
                self._fail(BAD_UNIQUE_ID)
                return None
            elif kind == TLV_SSL and (n < SSL_HEAD or not is_tlvs(self._buf + pos + SSL_HEAD, n - SSL_HEAD)):
                self._fail(BAD_SSL)
                return None
            elif kind != TLV_NOOP:
                found.append((kind, PyBytes_FromStringAndSize(<char*> self._buf + pos, n)))
            pos += n
        if crc_at != NO_CRC and not self._crc_fits(crc_at):
            self._fail(BAD_CRC)
            return None
        return tuple(found)

    cdef bint _crc_fits(self, Py_ssize_t at) noexcept:
        """Section 2.2.3: that of the whole header, with zeros in the place of the checksum."""
        cdef unsigned char* p = self._buf + at
        cdef uint32_t told = (<uint32_t> big16(p) << 16) | big16(p + 2)
        p[0] = p[1] = p[2] = p[3] = 0
        return crc32c(self._buf, self._size) == told
