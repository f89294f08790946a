"""Names in a domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from diptych import Domain, Projection
from diptych.domain.errors import DomainError
from library.copies import copy
from library.lending import lending
from library.mail import mail
from library.v1.resources_pb2 import Member


def with_view(name: str) -> Sequence[Projection]:
    """Return the projection `lending` and another with a view of this name."""
    projection = Projection("more", version=1)
    projection.view(name, Member)
    return (lending, projection)


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("aggregates named copy", lambda: Domain("library", aggregates=[copy, copy], projections=[])),
        ("projections named lending", lambda: Domain("library", aggregates=[], projections=[lending, lending])),
        (
            "views named members",
            lambda: Domain("library", aggregates=[], projections=with_view("members")),
        ),
    ],
)
def test_domain_refuses_two_declarations_of_one_name(what: str, make: Callable[[], Domain]) -> None:
    with pytest.raises(DomainError, match=f"There are two {what}"):
        make()


def test_domain_refuses_two_ports_for_one_effect() -> None:
    with pytest.raises(DomainError, match=r"two ports named library\.v1\.SendNoticeRequest"):
        Domain("library", aggregates=[], projections=[], ports=(mail, mail))
