"""The library: a small domain that tests serve beside the shop."""

from diptych import Domain
from library.copies import copy
from library.lending import activity, lending
from library.mail import mail
from library.members import member
from library.reservations import reservation

domain = Domain(
    "library",
    aggregates=[member, copy],
    projections=[lending, activity],
    processes=[reservation],
    ports=[mail],
)
