"""A run: its settings, and what they name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline import config, nomenclature
from pipeline.config import Settings
from pipeline.errors import SettingsError
from pipeline.nomenclature import Nomenclature
from pipeline.paths import RunPaths
from pipeline.sheets import Comparison, Sheet, comparisons, read_sheets


@dataclass(frozen=True)
class Run:
    """A run: its settings, and what they name.

    Attributes:
        settings: The settings.
    """

    settings: Settings

    @property
    def paths(self) -> RunPaths:
        """Its files."""
        return RunPaths(self.settings.run)

    @cached_property
    def sheets(self) -> dict[str, Sheet]:
        """Its sheets by name."""
        return read_sheets(self.settings.sheets)

    @cached_property
    def nomenclature(self) -> Nomenclature:
        """Its training classes."""
        path = self.settings.nomenclature
        return nomenclature.parse(config.read_yaml(path), str(path))

    def sheet(self, name: str) -> Sheet:
        """A sheet by name.

        Raises:
            SettingsError: If the sheets table has none of that name.
        """
        if name not in self.sheets:
            raise SettingsError(
                f"{self.settings.sheets}: there is no sheet {name!r}.",
                [f"sheets: {', '.join(self.sheets)}"],
            )
        return self.sheets[name]

    def labelled_sheet(self, name: str) -> Sheet:
        """A sheet by name that has labels to judge its map by.

        Raises:
            SettingsError: If the sheets table has none of that name, or has it without labels.
        """
        sheet = self.sheet(name)
        if sheet.split == "map":
            raise SettingsError(
                f"sheet {name}: has no labels to judge its map by (split map).",
                remedy=f"Name a sheet that has another `split` in {self.settings.sheets}.",
            )
        return sheet

    def comparison(self, place: str, before: str, after: str) -> Comparison:
        """Two sheets of a place that are compared.

        Raises:
            SettingsError: If the sheets table asks for no such comparison.
        """
        known = comparisons(self.sheets)
        if (place, before, after) not in known:
            there = [f"{place}, {before} and {after}" for place, before, after in known]
            raise SettingsError(
                f"{self.settings.sheets}: {place}, {before} and {after} are not to be compared.",
                there or ["no place has sheets of several years"],
                "Columns `place` and `year` of the sheets table say what is.",
            )
        return known[place, before, after]

    @cached_property
    def bases(self) -> dict[str, Path]:
        """SIOSE bases of the sheets that have labels, by their name in file names."""
        sheets = (self.sheets[name] for name in self.labelled_sheets)
        return {sheet.base: sheet.siose for sheet in sheets}

    @property
    def labelled_sheets(self) -> list[str]:
        """Sheets that have labels: all but those of split ``map``."""
        return [sheet.name for sheet in self.sheets.values() if sheet.split != "map"]
