"""A report of all that there can be, of classes whose names would break a careless page."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from pipeline import area_estimates, bootstrap
from pipeline.calibration import LEVELS, Calibration
from pipeline.compute_costs import Benchmark
from pipeline.confusion import ConfusionMatrix
from pipeline.evaluation import Evaluation, TileScore
from pipeline.grid import Window
from pipeline.ground_blocks import BlockMatrices
from pipeline.listed_polygons import CandidateRow, PolygonRow
from pipeline.outlines import BINS, OutlineCounts
from pipeline.polygon_agreement import AgreementCounts
from pipeline.report_data import LabelCounts, ReportData, SheetReport
from pipeline.slurm_accounting import Accounting, SlurmJob
from pipeline.thumbnails import SheetThumbnails
from pipeline.tile_pictures import TilePixels

NAMES = ("Olivar", '<script>alert("x")</script> & más', "Vía {{ 7*7 }}")
COLORS = ("#A0C800", "#0000FF", "#DC1E1E")
LABEL = "70LOL_30<b>ZAU</b>"

# Two squares of ground: 90 of 100 pixels right in the first, 40 of 50 in the second.
SQUARES = np.array(
    [[[50, 10, 0], [0, 40, 0], [0, 0, 0]], [[10, 0, 5], [5, 30, 0], [0, 0, 0]]], np.int64
)

SLURM_JOB = SlurmJob(
    "17", "tesela-0_1", "", ("train",), "", "COMPLETED", 1000.0, 1060.0, 1660.0, 60.0, 600.0,
    3600.0, 1, 4, 2, 1200.0, 2500.0, 5000.0,
)  # fmt: skip
"""Two GPUs for ten minutes, after a minute in the queue."""


def evaluation() -> Evaluation:
    """120 pixels of 150 judged with confidence, surer than right; 60 near outlines, 90 inside."""
    levels = np.zeros((3, LEVELS, 2), np.int64)
    levels[0, 90] = 10, 50  # wrong, right
    levels[1, 100] = 0, 40
    levels[2, 60] = 15, 5
    by_distance = np.zeros((3, BINS, 2), np.int64)
    by_distance[0, 0] = 15, 25
    by_distance[1, 2] = 3, 17
    by_distance[0, -1] = 2, 33
    by_distance[1, 6] = 0, 55
    boundary = np.array([[20, 10, 40, 30], [10, 10, 10, 5], [4, 0, 0, 0]], np.int64)
    tiles = (
        TileScore("0722", Window(0, 0, 8, 8), 64, 60, True),
        TileScore("0722", Window(8, 0, 8, 8), 64, 16, False),
    )
    return Evaluation(
        NAMES, Calibration(levels, 30), OutlineCounts(by_distance, boundary, 3), tiles
    )


def agreement() -> AgreementCounts:
    """Three polygons, two of them composite, one the worst and one an update candidate."""
    siose = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.7, 0.3, 0.0]])
    mapped = np.array([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.7, 0.3, 0.0]])
    counts = AgreementCounts.of(
        NAMES, mapped, siose, np.array([1000.0, 2000.0, 2000.0]), {"cut off": 2, "too small": 0}
    )
    row = PolygonRow(
        "0722", "urn:uuid:8a1f", LABEL, "test", 2000.0, 0.4, NAMES[0], 0.5, NAMES[0], 0.9, 81.0,
        -0.41234567, 39.51234567,
    )  # fmt: skip
    candidate = CandidateRow(**vars(row), from_class=NAMES[1], to_class=NAMES[0],
                             changed_share=0.4, changed_m2=800.0)  # fmt: skip
    return replace(
        counts, worst=(row,), searched=9, candidates=(candidate,), candidate_count=31,
        candidate_m2=12_345.0,
    )  # fmt: skip


def thumbnails(rng: np.random.Generator, classes: int, rows: int, cols: int) -> SheetThumbnails:
    """A sheet in blobs, wrong here and there."""

    def blobs() -> NDArray[np.uint8]:
        coarse = rng.integers(0, classes, (rows // 12 + 1, cols // 12 + 1)).astype(np.uint8)
        return coarse.repeat(12, 0).repeat(12, 1)[:rows, :cols].copy()

    labels = blobs()
    mapped = np.where(rng.random((rows, cols)) < 0.8, labels, blobs()).astype(np.uint8)
    return SheetThumbnails(
        (60 * blobs()[..., None] % 200 + rng.integers(0, 40, (rows, cols, 3))).astype(np.uint8),
        np.ones((rows, cols), np.bool_),
        labels,
        mapped,
        rng.integers(0, 101, (rows, cols)).astype(np.uint8),
    )


def tile(accuracy: float) -> TilePixels:
    """A tile of 8 x 8 pixels."""
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 3, (2, 8, 8)).astype(np.uint8)
    photo = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return TilePixels("0722", Window(8, 0, 8, 8), accuracy, photo, np.ones((8, 8), np.bool_), *ids)


def full_report() -> ReportData:
    """One test sheet of 150 judged pixels, and all else that a report can have."""
    matrix = ConfusionMatrix(NAMES, SQUARES.sum(axis=0))
    sheet = SheetReport(
        "0722", "test", 2021, LabelCounts({NAMES[0]: 75, NAMES[1]: 75}, {"boundary": 50}, 200),
        matrix, thumbnails(np.random.default_rng(1), 3, 12, 16), {"sliver": 2}, 3, evaluation(),
        200,
    )  # fmt: skip
    blocks = BlockMatrices(NAMES, np.array([[0, 0], [1, 0]]), "EPSG:25830", SQUARES, 128.0)
    # Of two blocks the bounds can be reckoned by hand; a run has none of so few.
    with patch.object(bootstrap, "FEWEST_BLOCKS", 2):
        bounds = bootstrap.intervals([blocks], 200, 0)
    return ReportData(
        run="all",
        names=NAMES,
        colors=COLORS,
        pixel_area=0.25,
        sheets=[sheet],
        benchmarks=[
            Benchmark("label_raster", "0722", 2.0, 300.0, 3.0),
            Benchmark("train", "all", 600.0, 2500.0, 1200.0),
        ],
        intervals=bounds,
        block_m=128.0,
        agreement=agreement(),
        estimates=replace(
            area_estimates.estimate(
                NAMES, [[45, 5, 0], [2, 48, 0], [0, 4, 6]], [600_000.0, 300_000.0, 100_000.0]
            ),
            sheets=("0722",),
            splits=("test",),
            maps="0123456789abcdef",
        ),
        accounting=Accounting([SLURM_JOB]),
        tiles=([tile(0.25)], [tile(0.9375)]),
    )
