"""Every file name of a run, relative to the run's folder: the only place that spells them.

Names take a sheet or a Snakemake wildcard (``"{sheet}"``) alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def link(target: Path, folder: Path) -> str:
    """How a file in a folder names another file, so that both may be moved together.

    Args:
        target: The file that is named.
        folder: Folder of the file that names it.

    Returns:
        Relative to the folder where anything but the root of the file system is above both,
        absolute otherwise; with ``/`` on every system.
    """
    # Resolved: `..` leads to the folder above where a symbolic link points to.
    there, here = target.parent.resolve() / target.name, folder.resolve()
    if os.path.commonpath([there, here]) == there.anchor:
        return there.as_posix()
    return Path(os.path.relpath(there, here)).as_posix()


REPORT_FIGURES = ("classes", "reliability", "trust", "outlines", "agreement", "costs")
"""Figures of the report, each a file of its own as well."""

REPORT_TABLES = (
    "scores_by_class",
    "scores_by_sheet",
    "scores_by_sheet_and_class",
    "calibration",
    "trust",
    "outlines",
    "tiles",
    "agreement",
    "worst_polygons",
    "update_candidates",
    "areas",
    "labels",
    "masked",
    "polygon_problems",
    "costs",
    "slurm_steps",
    "slurm_jobs",
)
"""Tables of the report, each a file of its own as well."""


@dataclass(frozen=True)
class RunPaths:
    """The files below a run's folder.

    Attributes:
        run: The run's folder; its last part is the run's name.
    """

    run: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.name or self.run.resolve().name

    @property
    def settings(self) -> Path:
        """The settings as used: defaults and overrides together."""
        return self.run / "settings.yaml"

    @property
    def started(self) -> Path:
        """When the run began, in UTC; later starts leave it."""
        return self.run / "started"

    def values_index(self, base: str) -> Path:
        """The values table of a SIOSE base, indexed by polygon, Arrow."""
        return self.run / "siose" / f"{base}.arrow"

    def proportions(self, sheet: str) -> Path:
        """Class proportions of the sheet's polygons, GeoParquet."""
        return self.run / "proportions" / f"{sheet}.parquet"

    def problems(self, sheet: str) -> Path:
        """Polygons that need a person's eye, GeoPackage; only where there are any."""
        return self.run / "problems" / f"{sheet}.gpkg"

    def polygon_check(self, sheet: str) -> Path:
        """All that is wrong with the sheet's SIOSE polygons, GeoPackage."""
        return self.run / "checks" / f"{sheet}.gpkg"

    def polygon_check_counts(self, sheet: str) -> Path:
        """The same in numbers, JSON."""
        return self.run / "checks" / f"{sheet}.json"

    def label_raster(self, sheet: str) -> Path:
        """Class of each pixel, uint8."""
        return self.run / "labels" / f"{sheet}.tif"

    def polygon_index(self, sheet: str) -> Path:
        """Row (from 1) of each pixel's polygon in the proportions, uint32."""
        return self.run / "labels" / f"{sheet}.polygons.tif"

    def label_counts(self, sheet: str) -> Path:
        """Pixels per class and masked pixels per reason, JSON."""
        return self.run / "labels" / f"{sheet}.json"

    @property
    def tile_plan(self) -> Path:
        """The tiles of all sheets, Parquet."""
        return self.run / "tiles" / "plan.parquet"

    @property
    def ground(self) -> Path:
        """The ground of each split as rectangles of pixels, Parquet."""
        return self.run / "tiles" / "ground.parquet"

    def shard(self, sheet: str) -> Path:
        """Folder of the sheet's LMDB and its manifest."""
        return self.run / "shards" / f"{sheet}.lmdb"

    @property
    def models(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.run / "models" / self.name

    @property
    def best(self) -> Path:
        """Weights with the best validation score, with the model card inside."""
        return self.models / "best.safetensors"

    @property
    def last(self) -> Path:
        """State of training after the last epoch, to go on from."""
        return self.models / "last.ckpt"

    @property
    def card(self) -> Path:
        """The model card as JSON."""
        return self.models / "card.json"

    @property
    def curves(self) -> Path:
        """Losses and scores, one line a validation."""
        return self.models / "curves.csv"

    @property
    def speed(self) -> Path:
        """Tiles a second and waiting, one line a validation: what differs from start to start."""
        return self.models / "speed.csv"

    @property
    def curves_picture(self) -> Path:
        """The curves as a picture."""
        return self.models / "curves.png"

    @property
    def findings(self) -> Path:
        """What the curves warn of, in words, JSON."""
        return self.models / "findings.json"

    @property
    def samples(self) -> Path:
        """Folder of sample predictions, a picture a validation."""
        return self.models / "samples"

    @property
    def sample_picture(self) -> Path:
        """Sample predictions of the best validation; only where samples are asked for."""
        return self.samples / "best.png"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.models / "tensorboard"

    def land_cover_map(self, sheet: str) -> Path:
        """Predicted class of each pixel, COG."""
        return self.run / "maps" / f"{sheet}.tif"

    def confidence(self, sheet: str) -> Path:
        """Confidence of the predicted class in per cent, COG."""
        return self.run / "maps" / f"{sheet}.confidence.tif"

    def probabilities(self, sheet: str) -> Path:
        """Probability of each class in per cent, a band each, COG."""
        return self.run / "maps" / f"{sheet}.probabilities.tif"

    def entropy(self, sheet: str) -> Path:
        """Entropy of the probabilities, in per cent of its greatest value, COG."""
        return self.run / "maps" / f"{sheet}.entropy.tif"

    def map_layer(self, sheet: str, layer: str) -> Path:
        """A raster of a map by its name: classes, confidence, probabilities or entropy."""
        files = {
            "classes": self.land_cover_map,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
            "entropy": self.entropy,
        }
        return files[layer](sheet)

    def map_progress(self, sheet: str) -> Path:
        """Folder of what a map that is being made has already, to go on from."""
        return self.run / "maps" / f".{sheet}.progress"

    def cleaned_map(self, sheet: str) -> Path:
        """The map without its smallest patches, COG; only where cleaning is asked for."""
        return self.run / "maps" / f"{sheet}.cleaned.tif"

    def delivered_map(self, sheet: str, cleaned: bool) -> Path:
        """The map that is judged and handed on: the cleaned one where there is one."""
        return self.cleaned_map(sheet) if cleaned else self.land_cover_map(sheet)

    def vectors(self, sheet: str, suffix: str) -> Path:
        """The delivered map as polygons, ``gpkg`` or ``parquet``."""
        return self.run / "vectors" / f"{sheet}.{suffix}"

    def errors(self, sheet: str) -> Path:
        """Where map and labels differ, COG."""
        return self.run / "errors" / f"{sheet}.tif"

    @property
    def mosaics(self) -> Path:
        """Folder of the mosaics of all sheets, VRT, one of each kind and coordinate system."""
        return self.run / "mosaics"

    def change_map(self, place: str, before: int | str, after: int | str) -> Path:
        """Class before and class after of a place in two years, COG."""
        return self.run / "changes" / f"{place}.{before}-{after}.tif"

    def change_areas(self, place: str, before: int | str, after: int | str) -> Path:
        """Area of each change, CSV."""
        return self.run / "changes" / f"{place}.{before}-{after}.csv"

    def change_balance(self, place: str, before: int | str, after: int | str) -> Path:
        """What each class has won and lost, CSV."""
        return self.run / "changes" / f"{place}.{before}-{after}.classes.csv"

    @property
    def project(self) -> Path:
        """The QGIS project with all rasters of the run."""
        return self.run / "report" / f"{self.name}.qgz"

    def confusion(self, sheet: str) -> Path:
        """Confusion matrix of the sheet's test ground, JSON."""
        return self.run / "confusion" / f"{sheet}.json"

    def evaluation(self, sheet: str) -> Path:
        """Calibration, outlines and tiles of the sheet's test ground, JSON."""
        return self.run / "evaluation" / f"{sheet}.json"

    def block_matrices(self, sheet: str) -> Path:
        """Confusion matrices of the squares of the sheet's test ground, Parquet."""
        return self.run / "evaluation" / f"{sheet}.blocks.parquet"

    def polygon_agreement(self, sheet: str) -> Path:
        """SIOSE polygons that differ from the map, and update candidates, GeoPackage."""
        return self.run / "agreement" / f"{sheet}.gpkg"

    def polygon_agreement_counts(self, sheet: str) -> Path:
        """Shares on the map against those of SIOSE's polygons in numbers, JSON."""
        return self.run / "agreement" / f"{sheet}.json"

    @property
    def sample(self) -> Path:
        """Points to interpret by eye, GeoPackage with a form."""
        return self.run / "assessment" / "sample.gpkg"

    @property
    def area_estimates(self) -> Path:
        """Areas and accuracies with confidence intervals from the interpreted sample, JSON."""
        return self.run / "assessment" / "estimates.json"

    @property
    def area_estimates_table(self) -> Path:
        """The same, CSV."""
        return self.run / "assessment" / "estimates.csv"

    @property
    def report(self) -> Path:
        """The report that an analyst opens first."""
        return self.run / "report" / "index.html"

    def report_table(self, name: str) -> Path:
        """A table of the report, CSV."""
        return self.run / "report" / "tables" / f"{name}.csv"

    def report_figure(self, name: str) -> Path:
        """A figure of the report, SVG."""
        return self.run / "report" / "figures" / f"{name}.svg"

    @property
    def resources(self) -> Path:
        """Memory and time to ask for in the next run, YAML for a profile of Snakemake."""
        return self.run / "report" / "resources.yaml"

    @property
    def summary(self) -> Path:
        """The run in a few lines of text."""
        return self.run / "report" / "summary.txt"

    @property
    def scores(self) -> Path:
        """Scores of the run, JSON."""
        return self.run / "report" / "scores.json"

    @property
    def matrix(self) -> Path:
        """The run's confusion matrix, CSV."""
        return self.run / "report" / "confusion.csv"

    @property
    def matrix_picture(self) -> Path:
        """The run's confusion matrix as a picture."""
        return self.run / "report" / "confusion.png"

    @property
    def tuning(self) -> Path:
        """Folder of the search for better settings: its study, trials and page."""
        return self.run / "tuning"

    def trial(self, number: int) -> Path:
        """Folder of a trial's training."""
        return self.tuning / "trials" / f"{number:04d}"

    def tuning_worker(self, worker: int | str) -> Path:
        """What one worker of the search did, text."""
        return self.tuning / "workers" / f"{worker}.txt"

    @property
    def tuning_report(self) -> Path:
        """The search as a page."""
        return self.tuning / "index.html"

    @property
    def tuning_table(self) -> Path:
        """Its trials, CSV."""
        return self.tuning / "trials.csv"

    @property
    def best_settings(self) -> Path:
        """The best settings it found, as a settings file."""
        return self.tuning / "best.yaml"

    def start(self, number: str) -> Path:
        """Which process has started Snakemake on SLURM, as long as it is at work."""
        return self.run / ".starts" / number

    def log(self, rule: str, sheet: str = "all") -> Path:
        """What a rule said."""
        return self.run / "logs" / rule / f"{sheet}.log"

    def benchmark(self, rule: str, sheet: str = "all") -> Path:
        """Time and memory of a rule, as Snakemake measures them."""
        return self.run / "benchmarks" / rule / f"{sheet}.tsv"
