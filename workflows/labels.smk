rule index_values:
    """Index the values table of a SIOSE base, once for all sheets on it."""
    input:
        lambda wildcards: siose_files(BASES[wildcards.base]),
    output:
        paths.values_index("{base}"),
    log:
        paths.log("index_values", "{base}"),
    benchmark:
        paths.benchmark("index_values", "{base}")
    params:
        section=settings.siose.model_dump_json(),  # reruns this rule when its section changes
        config=paths.settings,
    conda:
        "../environment.yml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing(20),
    shell:
        "python -m pipeline --log {log:q} index-values --config {params.config:q} --base {wildcards.base}"


rule class_proportions:
    """Resolve the SIOSE polygons of one sheet to shares of the training classes."""
    input:
        orthophoto=lambda wildcards: sheets[wildcards.sheet].orthophoto,
        siose=lambda wildcards: siose_files(sheets[wildcards.sheet].siose),
        values=lambda wildcards: paths.values_index(sheets[wildcards.sheet].base),
        nomenclature=settings.nomenclature,
    output:
        paths.proportions("{sheet}"),
    log:
        paths.log("class_proportions", "{sheet}"),
    benchmark:
        paths.benchmark("class_proportions", "{sheet}")
    params:
        section=settings.siose.model_dump_json(),
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(20),
    shell:
        "python -m pipeline --log {log:q} class-proportions --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule check_polygons:
    """Tell all that is wrong with the SIOSE polygons of one sheet."""
    input:
        orthophoto=lambda wildcards: sheets[wildcards.sheet].orthophoto,
        siose=lambda wildcards: siose_files(sheets[wildcards.sheet].siose),
        values=lambda wildcards: paths.values_index(sheets[wildcards.sheet].base),
        nomenclature=settings.nomenclature,
    output:
        paths.polygon_check("{sheet}"),
        paths.polygon_check_counts("{sheet}"),
    log:
        paths.log("check_polygons", "{sheet}"),
    benchmark:
        paths.benchmark("check_polygons", "{sheet}")
    params:
        section=settings.siose.model_dump_json(),
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(40),
    shell:
        "python -m pipeline --log {log:q} check-polygons --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


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
        mem_mb=growing(2_000),
        runtime=growing(40),
    shell:
        "python -m pipeline --log {log:q} label-raster --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"
