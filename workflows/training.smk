rule train:
    """Train the network on the shards of all sheets.

    One process on one node, which starts those of further GPUs itself; where the profile asks for
    `mpi`, a process a GPU on all nodes.

    `last.ckpt` is no output on purpose: Snakemake would delete it when a job fails, and a
    training that was killed goes on from it. Neither are the sample predictions, which a training
    that has ended cannot draw again.
    """
    input:
        shards=expand(paths.shard("{sheet}"), sheet=LABELLED),
        plan=paths.tile_plan,
        nomenclature=settings.nomenclature,
        weights=WEIGHTS,
    output:
        paths.best,
        paths.card,
        paths.curves,
        paths.speed,
        paths.findings,
        report(
            paths.curves_picture,
            caption="captions/curves.rst",
            category="Figures",
            labels={"what": "training curves"},
        ),
    log:
        paths.log("train"),
    benchmark:
        paths.benchmark("train")
    params:
        section=settings.training.model_dump_json(exclude=settings.training.result_ignores),
        augmentation=settings.augmentation.model_dump_json(),
        seed=settings.seed,
        config=paths.settings,
        # Made of resources, so a training that is done stays when the profile changes.
        launcher=lambda wildcards, resources, threads: launcher(resources, threads),
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=growing(12_000),
        # No more with each attempt, each goes on where the last was: two days are longer than many
        # partitions allow, and such a job would wait for ever.
        runtime=24 * 60,
    shell:
        "{params.launcher} python -m pipeline --log {log:q} train --config {params.config:q}"
