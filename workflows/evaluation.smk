rule confusion:
    """Count reference against map on the test ground of one sheet."""
    input:
        labels=paths.label_raster("{sheet}"),
        map=paths.delivered_map("{sheet}", settings.cleaning.asked),
        ground=paths.ground,
    output:
        paths.confusion("{sheet}"),
    log:
        paths.log("confusion", "{sheet}"),
    benchmark:
        paths.benchmark("confusion", "{sheet}")
    params:
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 2_000 * attempt,
        runtime=40,
    shell:
        "python -m pipeline --log {log:q} confusion --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule report:
    """Put matrices, curves, maps and data together in one page."""
    input:
        confusion=expand(paths.confusion("{sheet}"), sheet=LABELLED),
        counts=expand(paths.label_counts("{sheet}"), sheet=LABELLED),
        checks=expand(paths.polygon_check_counts("{sheet}"), sheet=LABELLED),
        maps=expand(paths.delivered_map("{sheet}", settings.cleaning.asked), sheet=SHEETS),
        card=paths.card,
        curves=paths.curves,
        speed=paths.speed,
        findings=paths.findings,
        changes=[paths.change_areas(*change) for change in CHANGES],
    output:
        paths.report,
        paths.scores,
        paths.matrix,
        paths.matrix_picture,
        paths.summary,
    log:
        paths.log("report"),
    benchmark:
        paths.benchmark("report")
    params:
        config=paths.settings,
    conda:
        "../environment.yml"
    resources:
        mem_mb=lambda wildcards, attempt: 3_000 * attempt,
        runtime=60,
    shell:
        "python -m pipeline --log {log:q} report --config {params.config:q}"
