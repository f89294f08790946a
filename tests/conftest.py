"""Set-up of all tests: generated code of the tests' own domain, and Hypothesis without deadlines."""

from __future__ import annotations

from pathlib import Path

from hypothesis import settings

from diptych.contract.generate import generate

_LIBRARY = Path(__file__).with_name("library_domain")

# Here and not in a fixture: test modules import it. Only what has changed is written, so runs may overlap.
generate(_LIBRARY / "protos", _LIBRARY)

# A busy machine would fail examples that are right.
settings.register_profile("diptych", deadline=None)
settings.load_profile("diptych")
