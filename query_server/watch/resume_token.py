"""Resume tokens: the point at which a watch can continue, on any query server.

A token holds a digest of the watched view and keys, the filling of the view's tables, and the position up to which
everything was sent. It is packed, has a checksum, and is opaque to clients.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable
from typing import NamedTuple

from diptych.contract.reasons import ResumeTokenMalformed

_FORM = 1
_LAYOUT = struct.Struct(">B8sIQ8sIQ")
_CHECK_BYTES = 4
_LENGTH = _LAYOUT.size + _CHECK_BYTES


class Source(NamedTuple):
    """Source of rows: one filling of a projection's tables. Positions of two fillings do not compare."""

    version: int
    generation: int
    filling: str
    """Random, in hexadecimal. A generation that is refilled in place, or in another file, has another one."""


class ResumeToken(NamedTuple):
    """A cut: everything up to a position was sent."""

    source: Source
    epoch: int
    """The log's epoch when the cut was made."""
    position: int

    def encode(self, watched: bytes) -> bytes:
        """Return the token of this cut, bound to the digest of the watched keys."""
        version, generation, filling = self.source
        packed = _LAYOUT.pack(_FORM, watched, version, generation, bytes.fromhex(filling), self.epoch, self.position)
        return base64.urlsafe_b64encode(packed + _check(packed)).rstrip(b"=")

    @classmethod
    def decode(cls, text: str, watched: bytes) -> ResumeToken:
        """Return the cut in a token. Raise `ResumeTokenMalformed` if it is malformed or of another watch."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise ResumeTokenMalformed() from None
        packed, check = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
        if len(raw) != _LENGTH or check != _check(packed):
            raise ResumeTokenMalformed()
        form, of, version, generation, filling, epoch, position = _LAYOUT.unpack(packed)
        if form != _FORM or of != watched or position >= 1 << 63:
            raise ResumeTokenMalformed()
        return cls(Source(version, generation, filling.hex()), epoch, position)


def watched(view: str, keys: Iterable[str] | None) -> bytes:
    """Return the digest of a watch's view and keys, in any order of the keys; None: all keys."""
    digest = hashlib.blake2b(view.encode(), digest_size=8, person=b"all" if keys is None else b"keys")
    for key in sorted(set(keys or ())):
        content = key.encode()
        digest.update(len(content).to_bytes(4, "big") + content)
    return digest.digest()


def _check(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=_CHECK_BYTES, person=b"resume").digest()
