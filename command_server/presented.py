"""The tokens that clients present, and what answers tell of them."""

from __future__ import annotations

from diptych.binder import Context
from diptych.refusals import TokenMalformed
from diptych.token import METADATA_KEY, LogIdentity, Token


def presented_token(context: Context, identity: LogIdentity) -> str:
    """The greatest token of this log in the request's metadata; empty without one.

    Nothing here is read at a token, so that one that is malformed or of another log is no error. It only must not
    be told back: whoever keeps the greatest would never get rid of it.
    """
    presented = ""
    for key, value in context.invocation_metadata() or ():
        if key == METADATA_KEY:
            presented = max(presented, token_of(str(value), identity))
    return presented


def token_of(text: str, identity: LogIdentity) -> str:
    """The text itself, if it is a token of this log; else empty."""
    try:
        token = Token.parse(text)
    except TokenMalformed:
        return ""
    return text if token.log_id == identity.log_id else ""
