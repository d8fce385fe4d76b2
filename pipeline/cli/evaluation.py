"""The sub-commands that say how good maps are."""

from __future__ import annotations
