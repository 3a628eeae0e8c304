"""Two models or bundles side by side on the same examples: quality and speed, in pairs.

A description of these examples, not a claim: nothing here knows whether they were used to make
either model, and no proof set is opened.
"""

from strop.comparison.comparing import compare
from strop.comparison.record import Comparison, Side

__all__ = ["Comparison", "Side", "compare"]
