"""Coordinate reference systems by the names that people give to options."""

from __future__ import annotations

import pyproj

from pipeline.errors import InputError


def named_system(crs: str, option: str) -> pyproj.CRS:
    """The system of a name, an EPSG code or WKT.

    Args:
        crs: What was written.
        option: Where, such as ``--bbox-crs``.

    Raises:
        InputError: If there is no such system.
    """
    try:
        return pyproj.CRS(crs)
    except pyproj.exceptions.CRSError as error:
        raise InputError(
            f"{option} {crs}: is no coordinate reference system.",
            remedy="Write one like EPSG:25830 or EPSG:4326.",
        ) from error
