"""How long the heavy chapters compute: one switch for all of them, not in the package."""

import os
from typing import TypeVar

T = TypeVar("T")
TIERS = ("seconds", "minutes", "full")


def pick(*, seconds: T, minutes: T, full: T) -> T:
    """Return the value for the tier that the environment variable ``CNN_TIER`` names.

    Parameters
    ----------
    seconds, minutes, full : object
        The values for the three tiers. ``full`` is what is taken where nothing is said.

    Returns
    -------
    object
        One of the three.

    Raises
    ------
    ValueError
        ``CNN_TIER`` names no tier.
    """
    tier = os.environ.get("CNN_TIER") or "full"
    if tier not in TIERS:
        raise ValueError(f"CNN_TIER is {tier!r}; expected one of {', '.join(TIERS)}")
    return {"seconds": seconds, "minutes": minutes, "full": full}[tier]
