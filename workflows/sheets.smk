# Files of all sheets are listed in the one job that needs them, and not whenever this is read:
# there may be thousands. (`tile_plan` and `train` list theirs at once: many jobs wait for each of
# them, and Snakemake looks through their inputs for every one; names that were listed compare
# quicker.)


def every_sheet(wildcards):
    return SHEETS


def labelled(wildcards):
    return LABELLED
