"""One function a rule, in the order of the data: open, call, publish.

Each takes the run and writes its outputs at the paths of :mod:`pipeline.paths`. A stage that is
killed leaves nothing that looks finished, and may be started again. The modules are those of
``workflows/``.
"""

from pipeline.run import Run
from pipeline.stages.agreement import polygon_agreement
from pipeline.stages.assessment import assess, assess_reference, assess_sample
from pipeline.stages.changes import change_map, compare_maps
from pipeline.stages.cleaning import clean_map, clean_raster
from pipeline.stages.evaluation import confusion, evaluation
from pipeline.stages.labels import check_polygons, class_proportions, index_values, label_raster
from pipeline.stages.mapping import map_imagery, map_sheet
from pipeline.stages.orthophotos import map_orthophotos
from pipeline.stages.point_assessment import PointSample, assess_map_points, assess_points
from pipeline.stages.qgis import error_raster, mosaic, qgis_project
from pipeline.stages.reporting import report
from pipeline.stages.run_comparison import compare
from pipeline.stages.sampling import SampleDesign, sample, sample_maps
from pipeline.stages.shards import shard, tile_plan
from pipeline.stages.training import train, tune, tuning_report
from pipeline.stages.vectors import vector_map, vector_raster

__all__ = [
    "PointSample",
    "Run",
    "SampleDesign",
    "assess",
    "assess_map_points",
    "assess_points",
    "assess_reference",
    "assess_sample",
    "change_map",
    "check_polygons",
    "class_proportions",
    "clean_map",
    "clean_raster",
    "compare",
    "compare_maps",
    "confusion",
    "error_raster",
    "evaluation",
    "index_values",
    "label_raster",
    "map_imagery",
    "map_orthophotos",
    "map_sheet",
    "mosaic",
    "polygon_agreement",
    "qgis_project",
    "report",
    "sample",
    "sample_maps",
    "shard",
    "tile_plan",
    "train",
    "tune",
    "tuning_report",
    "vector_map",
    "vector_raster",
]
