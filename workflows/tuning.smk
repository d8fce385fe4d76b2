rule tune:
    """Train trials of the search for better settings, one worker of many on the same study.

    The study is no output on purpose: Snakemake would delete it when a job fails, and a search
    that was killed goes on from it.
    """
    input:
        shards=expand(paths.shard("{sheet}"), sheet=LABELLED),
        plan=paths.tile_plan,
        nomenclature=settings.nomenclature,
    output:
        paths.tuning_worker("{worker}"),
    log:
        paths.log("tune", "{worker}"),
    benchmark:
        paths.benchmark("tune", "{worker}")
    params:
        tuning=settings.tuning.model_dump_json(exclude={"workers"}),
        section=settings.training.model_dump_json(exclude=settings.training.result_ignores),
        augmentation=settings.augmentation.model_dump_json(),
        seed=settings.seed,
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=growing(12_000),
        # No more with each attempt, each goes on where the last was: two days are longer than many
        # partitions allow, and such a job would wait for ever.
        runtime=24 * 60,
    shell:
        "python -m pipeline --log {log:q} tune --config {params.config:q} --worker {wildcards.worker}"


rule tuning_report:
    """Put the trials together in one page, a table and the best settings."""
    input:
        expand(paths.tuning_worker("{worker}"), worker=range(1, settings.tuning.workers + 1)),
    output:
        paths.tuning_report,
        paths.tuning_table,
        paths.best_settings,
    log:
        paths.log("tuning_report"),
    benchmark:
        paths.benchmark("tuning_report")
    params:
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=growing(2_000),
        runtime=growing(10),
    shell:
        "python -m pipeline --log {log:q} tuning-report --config {params.config:q}"
