"""Tesela: land-cover maps from PNOA orthophotos and SIOSE polygons."""

__version__ = "0.1.0"
