"""Outputs that are there, and of which Snakemake does not know how they were made."""

from __future__ import annotations

from pipeline.snakemake_start import PlannedWorkflow

_MOST = 10


def warn(workflow: PlannedWorkflow) -> None:
    """Name the outputs that would stay although the settings are changed.

    They were finished while no Snakemake was there to note by which settings: by SLURM after
    Snakemake was killed, or by hand. Snakemake itself says so in a dry run only.

    Args:
        workflow: Snakemake's, in ``onstart``.
    """
    dag = workflow.dag
    jobs = [job for job in dag.jobs if dag.reason(job).no_metadata and not dag.needrun(job)]
    if not jobs:
        return
    rules = sorted({job.rule.name for job in jobs})
    again = rules if len(jobs) > _MOST else sorted(str(job.output[0]) for job in jobs)
    workflow.scheduler._executor.logger.warning(
        f"Outputs of {len(jobs)} jobs ({', '.join(rules)}) were finished while no Snakemake was "
        "there. They are used as they are, also if settings have changed since or will change. To "
        f"make them again: --forcerun {' '.join(again)}"
    )
