rule map_sheet:
    """Predict the class of every pixel of one sheet, on the orthophoto's grid."""
    input:
        checkpoint=paths.best,
        ensemble=settings.mapping.ensemble,
        orthophoto=lambda wildcards: sheets[wildcards.sheet].orthophoto,
    output:
        [paths.map_layer("{sheet}", layer) for layer in settings.mapping.layers],
    log:
        paths.log("map_sheet", "{sheet}"),
    benchmark:
        paths.benchmark("map_sheet", "{sheet}")
    params:
        section=settings.mapping.model_dump_json(exclude=settings.mapping.result_ignores),
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=lambda wildcards, attempt: 6_000 * attempt,
        runtime=240,
    shell:
        "python -m pipeline --log {log:q} map-sheet --config {params.config:q} --sheet {wildcards.sheet}"
