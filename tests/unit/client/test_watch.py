"""Progress of a watch in the client: its resume token, and the rows after it."""

from __future__ import annotations

from diptych.client.watch import WatchProgress
from diptych.v1.read_model_pb2 import WatchRequest, WatchResponse


def frame(*rows: tuple[str, int], token: str = "", kind: str = "rows") -> WatchResponse:
    """Return a frame with rows of these keys and positions, or one of another kind."""
    response = WatchResponse(resume_token=token)
    if kind == "rows":
        for key, position in rows:
            response.rows.rows.add(key=key, position=position).row.SetInParent()
    else:
        getattr(response, kind).SetInParent()
    return response


def rows_of(response: WatchResponse | None) -> list[tuple[str, int]]:
    """Return keys and positions of the rows of a frame."""
    assert response is not None
    return [(row.key, row.position) for row in response.rows.rows]


def test_rows_after_the_last_resume_token_are_left_out_when_they_come_again() -> None:
    progress = WatchProgress(WatchRequest(view="notes"))
    progress.take(frame(("a", 1)))
    progress.take(frame(token="t1", kind="caught_up"))
    progress.take(frame(("a", 2), ("b", 3)))
    assert progress.reset_before_resume() is None
    assert progress.request.resume_token == "t1"
    assert progress.take(frame(("a", 2), ("b", 3))) is None
    assert rows_of(progress.take(frame(("b", 4), ("c", 5), token="t2"))) == [("b", 4), ("c", 5)]
    assert progress.request.resume_token == "t2"


def test_watch_that_cannot_be_resumed_begins_with_a_reset() -> None:
    progress = WatchProgress(WatchRequest(view="notes"))
    assert progress.reset_before_resume() is None
    progress.take(frame(("a", 1)))
    again = progress.reset_before_resume()
    assert again is not None
    assert again.HasField("reset")
    assert rows_of(progress.take(frame(("a", 1)))) == [("a", 1)]
    progress.take(frame(token="t1", kind="caught_up"))
    progress.take(frame(kind="reset"))
    assert progress.request.resume_token == ""
    assert progress.reset_before_resume() is None
    progress.take(frame(("a", 1)))
    assert progress.reset_before_resume() is not None


def test_expired_token_is_discarded_unless_the_caller_gave_it() -> None:
    progress = WatchProgress(WatchRequest(view="notes", resume_token="mine"))
    assert not progress.discard_expired_token()
    progress.take(frame(("a", 1), token="t1"))
    assert progress.discard_expired_token()
    assert progress.reset_before_resume() is not None
    assert progress.request.resume_token == ""
