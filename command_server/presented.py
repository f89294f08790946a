"""The tokens that clients present, and what answers tell of them."""

from __future__ import annotations

from diptych.contract.reasons import TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch
from diptych.contract.token import LogIdentity, Token
from diptych.server.request_context import RequestContext


def presented_token(context: RequestContext, identity: LogIdentity) -> str:
    """The greatest token of this log in the request's metadata; empty without one.

    Nothing here is read at a token, so that one that is malformed, of another log or of what the log has lost is no
    error. It only must not be told back: whoever keeps the greatest would never get rid of it.
    """
    presented = ""
    for token in context.presented_tokens:
        presented = max(presented, token_of(token, identity))
    return presented


def token_of(text: str, identity: LogIdentity) -> str:
    """The text itself, if it is a good token of this log; else empty."""
    try:
        identity.judge(Token.parse(text))
    except (TokenMalformed, TokenOfAnotherLog, TokenOfOlderEpoch):
        return ""
    return text
