"""Tesela: orthophotos and SIOSE polygons in, land-cover maps and a report out.

    snakemake --cores 4 --configfile my_run.yaml          the whole run
    snakemake --cores 4                                   the demo
    snakemake --profile slurm --configfile my_run.yaml    on a cluster
    snakemake tuning --cores 4 --configfile my_run.yaml configs/tuning.yaml
                                                          the search for better settings
"""

import gc
import sys
import time
from pathlib import Path

from pipeline import config as configuration
from pipeline import interruption, networks, nomenclature, slurm_runs, snakemake_start, unrecorded
from pipeline.launcher import launcher
from pipeline.paths import REPORT_FIGURES, REPORT_TABLES, RunPaths
from pipeline.sheets import NAME, comparisons, digest_of, missing_inputs, read_sheets, siose_files

if not workflow.configfiles:
    configfile: Path(workflow.basedir) / "configs" / "demo.yaml"


report: "workflows/captions/workflow.rst"


STARTED = time.time()
settings = configuration.from_workflow(config, workflow.configfiles)
sheets = read_sheets(settings.sheets)
paths = RunPaths(settings.run)
gc.set_threshold(100_000, 50, 100)  # thousands of sheets are millions of objects that stay
if workflow.is_main_process:  # its jobs start Snakemake again, twice each, and need not look again
    snakemake_start.refuse_conda(workflow)
    missing_inputs(sheets, settings.sheets, made=Path("run/demo/data"))
    nomenclature.parse(configuration.read_yaml(settings.nomenclature), str(settings.nomenclature))
    for name in [settings.training.network, *settings.tuning.space.get("training.network", [])]:
        networks.encoder_of(name, settings.training.encoder)
    configuration.check_run(settings)
else:
    interruption.pass_on_warnings()
WEIGHTS = networks.first_weights(settings.training)

# The rules run with the Python that runs Snakemake, activated or not: their `conda:` only says what
# it has to have, for people and for `snakemake --lint`. `exec`: signals of a batch system reach the
# step itself, and not a shell that dies of them and leaves it behind.
shell.prefix(f"export PATH='{Path(sys.executable).parent}':\"$PATH\"; exec ")
SHEETS = list(sheets)
LABELLED = [sheet.name for sheet in sheets.values() if sheet.split != "map"]
CHANGES = comparisons(sheets)
BASES = {sheets[name].base: sheets[name].siose for name in LABELLED}


wildcard_constraints:
    worker=r"\d+",
    sheet=NAME,
    base=r"[A-Za-z0-9_-]+",
    place=NAME,
    before=r"\d{4}",
    after=r"\d{4}",


localrules:
    all,
    tuning,


onstart:
    slurm_runs.end_orphans(workflow, settings.run)
    unrecorded.warn(workflow)
    configuration.claim(settings)
    slurm_runs.begin(workflow, settings.run)


onerror:
    slurm_runs.finish(workflow, settings.run)


onsuccess:
    slurm_runs.finish(workflow, settings.run)
    if paths.summary.exists() and paths.summary.stat().st_mtime >= STARTED:
        print(paths.summary.read_text("utf-8"))


include: "workflows/resources.smk"
include: "workflows/sheets.smk"
include: "workflows/demo.smk"
include: "workflows/labels.smk"
include: "workflows/shards.smk"
include: "workflows/training.smk"
include: "workflows/tuning.smk"
include: "workflows/mapping.smk"
include: "workflows/captions.smk"
include: "workflows/evaluation.smk"
include: "workflows/qgis.smk"


rule all:
    """The maps of all sheets and the report."""
    default_target: True
    input:
        paths.report,
        paths.project,
        expand(paths.land_cover_map("{sheet}"), sheet=every_sheet),
        expand(paths.delivered_map("{sheet}", settings.cleaning.asked), sheet=every_sheet),
        lambda wildcards: [paths.change_map(*change) for change in CHANGES],
        expand(
            [paths.vectors("{sheet}", settings.vectors.format)]
            if settings.vectors.format != "none"
            else [],
            sheet=every_sheet,
        ),


rule tuning:
    """The search for better settings: its page, its trials and the best of them."""
    input:
        paths.tuning_report,
