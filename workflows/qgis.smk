rule error_raster:
    """Show where the map of one sheet and its labels differ, and what belongs there."""
    input:
        labels=paths.label_raster("{sheet}"),
        map=paths.delivered_map("{sheet}", settings.cleaning.asked),
    output:
        paths.errors("{sheet}"),
    log:
        paths.log("error_raster", "{sheet}"),
    benchmark:
        paths.benchmark("error_raster", "{sheet}")
    params:
        config=paths.settings,
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=growing(2_000),
        runtime=growing(60),
    shell:
        "python -m pipeline --log {log:q} error-raster --config {params.config:q} --sheet {wildcards.sheet} "
        "--threads {threads}"


rule mosaic:
    """Put the rasters of all sheets together as VRT files, one of each kind."""
    input:
        maps=expand(paths.delivered_map("{sheet}", settings.cleaning.asked), sheet=every_sheet),
        layers=expand(
            [
                paths.map_layer("{sheet}", layer)
                for layer in settings.mapping.layers
                if layer != "classes"
            ],
            sheet=every_sheet,
        ),
        labels=expand(paths.label_raster("{sheet}"), sheet=labelled),
        errors=expand(paths.errors("{sheet}"), sheet=labelled),
        orthophotos=lambda wildcards: [sheet.orthophoto for sheet in sheets.values()],
    output:
        directory(paths.mosaics),
    log:
        paths.log("mosaic"),
    benchmark:
        paths.benchmark("mosaic")
    params:
        config=paths.settings,
    conda:
        "../environment.yml"
    resources:
        mem_mb=growing(1_000),
        runtime=growing(30),
    shell:
        "python -m pipeline --log {log:q} mosaic --config {params.config:q}"


rule qgis_project:
    """Write a QGIS project of all that the run has made, in groups and styled."""
    input:
        mosaics=paths.mosaics,
        maps=expand(paths.land_cover_map("{sheet}"), sheet=every_sheet),
        changes=lambda wildcards: [paths.change_map(*change) for change in CHANGES],
        vectors=expand(
            [paths.vectors("{sheet}", "gpkg")] if settings.vectors.format == "gpkg" else [],
            sheet=every_sheet,
        ),
        checks=expand(paths.polygon_check_counts("{sheet}"), sheet=labelled),
        agreement=expand(paths.polygon_agreement("{sheet}"), sheet=labelled),
    output:
        paths.project,
    log:
        paths.log("qgis_project"),
    benchmark:
        paths.benchmark("qgis_project")
    params:
        config=paths.settings,
    conda:
        "../environment.yml"
    resources:
        mem_mb=growing(1_000),
        runtime=growing(30),
    shell:
        "python -m pipeline --log {log:q} qgis-project --config {params.config:q}"
