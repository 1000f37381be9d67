"""One-line messages to the user about what was decided for them.

They go to the logger "cirrus_fast", at a level that Python shows on standard error even where a
program has not set logging up, and that it can turn off.
"""

from __future__ import annotations

import logging
from functools import lru_cache

logger = logging.getLogger("cirrus_fast")


def notice(message: str) -> None:
    logger.warning(message)


@lru_cache(maxsize=1000)
def notice_once(message: str) -> None:
    """The same, but only the first time in this process: a search trains many like models."""
    notice(message)
