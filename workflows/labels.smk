rule class_proportions:
    """Resolve the SIOSE polygons of one sheet to shares of the training classes."""
    input:
        orthophoto=lambda wildcards: sheets[wildcards.sheet].orthophoto,
        siose=lambda wildcards: sheets[wildcards.sheet].siose,
        nomenclature=settings.nomenclature,
    output:
        paths.proportions("{sheet}"),
    log:
        paths.log("class_proportions", "{sheet}"),
    benchmark:
        paths.benchmark("class_proportions", "{sheet}")
    params:
        section=settings.siose.model_dump_json(),  # reruns this rule when its section changes
        config=paths.settings,
    conda:
        "../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: 2_000 * attempt,
        runtime=20,
    shell:
        "python -m pipeline --log {log:q} class-proportions --config {params.config:q} --sheet {wildcards.sheet}"


rule label_raster:
    """Burn the SIOSE classes of one sheet onto the pixels of its orthophoto."""
    input:
        orthophoto=lambda wildcards: sheets[wildcards.sheet].orthophoto,
        proportions=paths.proportions("{sheet}"),
    output:
        paths.label_raster("{sheet}"),
        paths.polygon_index("{sheet}"),
        paths.label_counts("{sheet}"),
    log:
        paths.log("label_raster", "{sheet}"),
    benchmark:
        paths.benchmark("label_raster", "{sheet}")
    params:
        section=settings.labels.model_dump_json(),
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2_000 * attempt,
        runtime=40,
    shell:
        "python -m pipeline --log {log:q} label-raster --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"
