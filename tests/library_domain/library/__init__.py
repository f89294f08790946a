"""The library: a small domain that tests serve beside the shop."""

from diptych import Domain
from library.copies import copy
from library.lending import activity, lending
from library.members import member

domain = Domain("library", aggregates=[member, copy], projections=[lending, activity])
