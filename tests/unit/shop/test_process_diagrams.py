"""The diagrams in the docs are those of the code."""

from tests.process_diagrams import DOCUMENT, drawn


def test_the_docs_show_the_processes_as_they_are() -> None:
    text = DOCUMENT.read_text()
    assert text == drawn(text), "draw them anew: python -m tests.process_diagrams"
