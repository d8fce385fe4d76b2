# What the figures of the report show: Snakemake's own report (`snakemake --report`) names them so.
CAPTIONED_FIGURES = {
    "classes": "scores of the classes",
    "reliability": "whether confidence is right",
    "trust": "how much of the map can be trusted",
    "outlines": "accuracy by distance to outlines",
    "agreement": "shares in SIOSE's polygons",
    "costs": "time of each step",
}


def captioned(path, name, category, what):
    """A file that Snakemake's own report shows as well, with its caption."""
    return report(path, caption=f"captions/{name}.rst", category=category, labels={"what": what})
