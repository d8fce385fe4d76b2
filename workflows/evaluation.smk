# Ground that several test sheets of one year show is judged on the first of them.
YEARS = digest_of((sheets[name] for name in LABELLED), "year")


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
        years=YEARS,
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(40),
    shell:
        "python -m pipeline --log {log:q} confusion --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule evaluation:
    """Judge the map of one sheet by confidence, by distance to outlines, and in squares of ground."""
    input:
        labels=paths.label_raster("{sheet}"),
        map=paths.delivered_map("{sheet}", settings.cleaning.asked),
        raw=paths.land_cover_map("{sheet}"),
        confidence=paths.confidence("{sheet}") if settings.mapping.confidence else [],
        ground=paths.ground,
    output:
        paths.evaluation("{sheet}"),
        paths.block_matrices("{sheet}"),
    log:
        paths.log("evaluation", "{sheet}"),
    benchmark:
        paths.benchmark("evaluation", "{sheet}")
    params:
        section=settings.evaluation.model_dump_json(include=settings.evaluation.of_pixels),
        years=YEARS,
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(120),
    shell:
        "python -m pipeline --log {log:q} evaluation --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule polygon_agreement:
    """Compare the shares mapped in each SIOSE polygon of one sheet with those that SIOSE says."""
    input:
        map=paths.delivered_map("{sheet}", settings.cleaning.asked),
        raw=paths.land_cover_map("{sheet}"),
        confidence=paths.confidence("{sheet}") if settings.mapping.confidence else [],
        proportions=paths.proportions("{sheet}"),
        polygons=paths.polygon_index("{sheet}"),
        ground=paths.ground,
    output:
        paths.polygon_agreement("{sheet}"),
        paths.polygon_agreement_counts("{sheet}"),
    log:
        paths.log("polygon_agreement", "{sheet}"),
    benchmark:
        paths.benchmark("polygon_agreement", "{sheet}")
    params:
        section=settings.evaluation.model_dump_json(include=settings.evaluation.of_polygons),
        years=YEARS,
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(60),
    shell:
        "python -m pipeline --log {log:q} polygon-agreement --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule report:
    """Put matrices, curves, maps and data together in one page."""
    input:
        confusion=expand(paths.confusion("{sheet}"), sheet=labelled),
        evaluation=expand(paths.evaluation("{sheet}"), sheet=labelled),
        blocks=expand(paths.block_matrices("{sheet}"), sheet=labelled),
        agreement=expand(paths.polygon_agreement_counts("{sheet}"), sheet=labelled),
        # Made by hand, when somebody has interpreted a sample.
        estimates=[path for path in [paths.area_estimates] if path.exists()],
        counts=expand(paths.label_counts("{sheet}"), sheet=labelled),
        checks=expand(paths.polygon_check_counts("{sheet}"), sheet=labelled),
        maps=expand(paths.delivered_map("{sheet}", settings.cleaning.asked), sheet=every_sheet),
        card=paths.card,
        curves=paths.curves,
        speed=paths.speed,
        findings=paths.findings,
        changes=lambda wildcards: [paths.change_areas(*change) for change in CHANGES],
    output:
        captioned(paths.report, "page", "Report", "the whole report"),
        captioned(paths.scores, "scores", "Tables", "all scores, JSON"),
        captioned(paths.matrix, "confusion_table", "Tables", "confusion matrix"),
        captioned(paths.matrix_picture, "confusion", "Figures", "confusion matrix"),
        paths.summary,
        paths.resources,
        [
            captioned(paths.report_figure(name), name, "Figures", CAPTIONED_FIGURES[name])
            for name in REPORT_FIGURES
        ],
        [
            captioned(paths.report_table(name), f"table_{name}", "Tables", name.replace("_", " "))
            for name in REPORT_TABLES
        ],
    log:
        paths.log("report"),
    benchmark:
        paths.benchmark("report")
    params:
        section=settings.evaluation.model_dump_json(include=settings.evaluation.of_report),
        seed=settings.seed,
        config=paths.settings,
    conda:
        "../environment.yml"
    resources:
        mem_mb=growing(3_000),
        runtime=growing(60),
    shell:
        "python -m pipeline --log {log:q} report --config {params.config:q}"
