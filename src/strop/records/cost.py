"""What a machine costs, and what inferences on it cost then."""

from __future__ import annotations

import math

from strop.records._base import Record


class Price(Record):
    """A machine's price by the hour.

    Attributes
    ----------
    per_hour
        In the currency that was given.
    currency
        As it was written (``$``, ``EUR``); empty where none was.
    """

    per_hour: float
    currency: str = ""

    def __str__(self) -> str:
        return f"{self.amount(self.per_hour)}/h"

    def amount(self, value: float) -> str:
        """A sum in this currency, in two or three significant digits, without exponents.

        Examples
        --------
        >>> Price(per_hour=0.18, currency="$").amount(0.5), Price(per_hour=1).amount(1234.5)
        ('$0.5', '1,234')
        >>> Price(per_hour=1).amount(999.7)
        '1,000'
        >>> Price(per_hour=0.18, currency="EUR").amount(0.001234)
        '0.00123 EUR'
        >>> Price(per_hour=0.18).amount(3.5e-5)
        '0.000035'
        """
        if value >= 999.5:
            text = f"{value:,.0f}"
        elif 0 < value < 1e-4:
            text = f"{value:.{1 - math.floor(math.log10(value))}f}"
        else:
            text = f"{value:.3g}"
        if not self.currency:
            return text
        return f"{text} {self.currency}" if self.currency[0].isalpha() else f"{self.currency}{text}"


class Cost(Record):
    """What inferences cost on machines of one price.

    Attributes
    ----------
    throughput
        Examples a second that one machine computes at full use.
    per_million
        Of a million inferences at full use.
    rate, max_utilisation
        The inferences a second that are required, and the share of `throughput` that a machine is
        given at most; None and 1 where no rate was asked for.
    machines
        ``ceil(rate / (throughput × max_utilisation))``.
    per_million_at_rate
        Of a million inferences on so many machines at that rate.
    bound
        In words: up to what load `throughput` holds, and what is known of latency there.
    """

    price: Price
    throughput: float
    per_million: float
    rate: float | None = None
    max_utilisation: float = 1.0
    machines: int | None = None
    per_million_at_rate: float | None = None
    bound: str = ""
