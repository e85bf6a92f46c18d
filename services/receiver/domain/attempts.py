"""How long nobody may try to log in after passwords that were wrong."""

from typing import Final

FREE_OF_NAME: Final = 5
"""Wrong passwords for one name from one address after which the next one has to wait."""

FREE_OF_ADDRESS: Final = 20
"""The same for all names together: several people may sit behind one address."""

MAX_DELAY_MS: Final = 15 * 60 * 1000

FORGOTTEN_AFTER_MS: Final = 24 * 60 * 60 * 1000


def delay_ms(failures: int, free: int) -> int:
    """Return how long the next attempt is refused: 0, or 1 s, 2 s, 4 s ... up to 15 minutes."""
    if failures < free:
        return 0
    # The exponent is bounded, too: a number of thousands of digits would cost more than a password.
    return min(1000 << min(failures - free, 10), MAX_DELAY_MS)
