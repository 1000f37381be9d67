"""What AWS asks for: a dated table (prices.json), and a user's file over it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cirrus_fast.errors import OptionError
from cirrus_fast.notices import notice_once

PRICES_VARIABLE = "CIRRUS_FAST_PRICES"
# Whose prices stand in for those of a region that is not in the table.
BASE_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Prices:
    """Of one region, in dollars.

    Attributes
    ----------
    region : whose prices these are; noted : when they were written down
    gb_second : of Lambda's memory, by architecture
    tmp_gb_second : of a function's disk beyond its first 512 MB
    million_requests : of Lambda; thousand_gets, thousand_puts : of S3
    s3_gb : read from S3 in the same region; nat_gb : through a NAT gateway
    node_hour : of servers that hold models, by their type
    """

    region: str
    noted: str
    gb_second: Mapping[str, float]
    tmp_gb_second: float
    million_requests: float
    thousand_gets: float
    thousand_puts: float
    s3_gb: float
    nat_gb: float
    node_hour: Mapping[str, float]

    @classmethod
    def load(cls, region: str, path: str | os.PathLike[str] | None = None) -> Prices:
        """
        Parameters
        ----------
        path : a file over the table's; by default what CIRRUS_FAST_PRICES names, if anything

        Raises
        ------
        OptionError : the file cannot be read, or says what is no price
        """
        table = table_of_prices()
        own = os.fspath(path) if path is not None else os.environ.get(PRICES_VARIABLE)
        if own:
            table = _merged(table, _read(own), own)
        rows = table["regions"]
        if region not in rows:
            notice_once(
                f"no prices for {region}: those of {BASE_REGION} are taken, as noted on "
                f"{table['noted']} ({PRICES_VARIABLE} names a file with others)"
            )
        row = rows[BASE_REGION] | rows.get(region, {})
        return cls(region if region in rows else BASE_REGION, table["noted"], **row)

    def node(self, text: str) -> float:
        """Dollars an hour of "cache.t4g.small", "2 c7g.large" or "0.25".

        Raises
        ------
        OptionError : the table does not have it
        """
        count, _, kind = text.strip().rpartition(" ")
        number = _number(count) if count else 1.0
        each = self.node_hour.get(kind)
        if each is None:
            each = _number(kind)
        if number is None or each is None:
            raise OptionError(
                f"store node {text!r}: no price is known; give dollars an hour, or one of "
                f"{', '.join(self.node_hour)}, as it is or as '2 {next(iter(self.node_hour))}'"
            )
        return number * each


def table_of_prices() -> dict[str, Any]:
    """The whole table, as it comes with the package."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("prices.json").read_text("utf-8"))
    return table


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path}: cannot be read as prices ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("regions", {}), dict):
        raise OptionError(f'{path}: must be {{"noted": DATE, "regions": {{REGION: {{...}}}}}}')
    return found


def _merged(table: dict[str, Any], own: dict[str, Any], path: str) -> dict[str, Any]:
    known = {row.name for row in fields(Prices)} - {"region", "noted"}
    rows: dict[str, dict[str, Any]] = dict(table["regions"])
    for region, given in own.get("regions", {}).items():
        if not isinstance(given, dict):
            raise OptionError(f"{path}: {region}: must have prices by name")
        row = dict(rows.get(region, {}))
        for name, value in given.items():
            where = f"{path}: {region}: {name}"
            if name not in known:
                raise OptionError(f"{where}: is no price; there are {', '.join(sorted(known))}")
            if name in ("gb_second", "node_hour"):
                if not isinstance(value, dict):
                    raise OptionError(f"{where}: must have prices by name")
                for each in value.values():
                    _check(where, each)
                # What a region does not say is as in the base region.
                base = rows[BASE_REGION][name]
                row[name] = base | row.get(name, {}) | value
            else:
                _check(where, value)
                row[name] = value
        rows[region] = row
    return {"noted": str(own.get("noted", table["noted"])), "regions": rows}


def _check(where: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]
        raise OptionError(f"{where}: {value!r} is no price")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None
