rule demo_data:
    """Make the four sheets and the SIOSE base of a made-up province."""
    output:
        expand("run/demo/data/{name}.tif", name=["0722-1", "0722-2", "0722-3", "0722-4"]),
        "run/demo/data/siose_ar.gpkg",
    log:
        "run/demo/logs/demo_data/all.log",
    benchmark:
        "run/demo/benchmarks/demo_data/all.tsv"
    params:
        out=lambda wildcards, output: Path(output[0]).parent,
    conda:
        "../environment.yml"
    resources:
        mem_mb=growing(2_000),
        runtime=growing(10),
    shell:
        "python -m pipeline --log {log:q} demo-data --out {params.out:q}"
