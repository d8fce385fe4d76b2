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
        mem_mb=growing(6_000),
        runtime=growing(240),
    shell:
        "python -m pipeline --log {log:q} map-sheet --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule clean_map:
    """Take the smallest parts out of the map of one sheet; asked for by the settings only."""
    input:
        paths.land_cover_map("{sheet}"),
    output:
        paths.cleaned_map("{sheet}"),
    log:
        paths.log("clean_map", "{sheet}"),
    benchmark:
        paths.benchmark("clean_map", "{sheet}")
    params:
        section=settings.cleaning.model_dump_json(),
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(60),
    shell:
        "python -m pipeline --log {log:q} clean-map --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule change_map:
    """Compare the maps of a place in two years."""
    input:
        lambda wildcards: [
            paths.delivered_map(sheet.name, settings.cleaning.asked)
            for sheet in CHANGES[wildcards.place, wildcards.before, wildcards.after].sheets
        ],
        lambda wildcards: [
            paths.confidence(sheet.name)
            for sheet in CHANGES[wildcards.place, wildcards.before, wildcards.after].sheets
            if settings.changes.min_confidence
        ],
    output:
        paths.change_map("{place}", "{before}", "{after}"),
        paths.change_areas("{place}", "{before}", "{after}"),
        paths.change_balance("{place}", "{before}", "{after}"),
    log:
        paths.log("change_map", "{place}.{before}-{after}"),
    benchmark:
        paths.benchmark("change_map", "{place}.{before}-{after}")
    params:
        section=settings.changes.model_dump_json(),
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(60),
    shell:
        "python -m pipeline --log {log:q} change-map --config {params.config:q} --place {wildcards.place} "
        "--before {wildcards.before} --after {wildcards.after} --threads {threads}"


rule vector_map:
    """Make polygons of the map of one sheet."""
    input:
        map=paths.delivered_map("{sheet}", settings.cleaning.asked),
        confidence=paths.confidence("{sheet}") if settings.mapping.confidence else [],
        orthophoto=lambda wildcards: sheets[wildcards.sheet].orthophoto,
        siose=lambda wildcards: (
            [paths.proportions(wildcards.sheet), paths.polygon_index(wildcards.sheet)]
            if settings.vectors.siose_shares and sheets[wildcards.sheet].split != "map"
            else []
        ),
    output:
        paths.vectors("{sheet}", settings.vectors.format),
    log:
        paths.log("vector_map", "{sheet}"),
    benchmark:
        paths.benchmark("vector_map", "{sheet}")
    params:
        section=settings.vectors.model_dump_json(),
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(120),
    shell:
        "python -m pipeline --log {log:q} vector-map --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"
