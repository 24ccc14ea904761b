# feed() of a reader, watched. Built by scripts/fuzz, with AddressSanitizer.

from guard cimport allow_behind, forbid_behind


def feed(object reader, bytes data):
    """reader.feed(data), where not one byte behind `data` may be read."""
    forbid_behind(data)
    result = reader.feed(data)
    allow_behind(data)
    return result
