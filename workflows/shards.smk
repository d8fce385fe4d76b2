rule tile_plan:
    """Choose the windows that become tiles, and the split of the ground they lie on."""
    input:
        labels=expand(paths.label_raster("{sheet}"), sheet=LABELLED),
    output:
        paths.tile_plan,
        paths.ground,
    log:
        paths.log("tile_plan"),
    benchmark:
        paths.benchmark("tile_plan")
    params:
        section=settings.tiling.model_dump_json(exclude=settings.tiling.plan_ignores),
        splits=[f"{sheet.name}: {sheet.split}" for sheet in sheets.values() if sheet.split != "map"],
        seed=settings.seed,
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(60),
    shell:
        "python -m pipeline --log {log:q} tile-plan --config {params.config:q} --threads {threads}"


rule shard:
    """Cut the tiles of one sheet out of orthophoto and labels into an LMDB."""
    input:
        plan=paths.tile_plan,
        ground=paths.ground,
        orthophoto=lambda wildcards: sheets[wildcards.sheet].orthophoto,
        labels=paths.label_raster("{sheet}"),
        polygons=paths.polygon_index("{sheet}"),
        proportions=paths.proportions("{sheet}"),
    output:
        directory(paths.shard("{sheet}")),
    log:
        paths.log("shard", "{sheet}"),
    benchmark:
        paths.benchmark("shard", "{sheet}")
    params:
        codec=settings.tiling.codec,
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(3_000),
        runtime=growing(60),
    shell:
        "python -m pipeline --log {log:q} shard --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"
