"""What was found in a folder of images and decided for its study, in words."""

from pipeline.drafting.draft import Plan
from pipeline.drafting.survey import Survey, middle

SHARDS = 200_000  # files from which on tar files are the better source
TRIAL = 500  # images below which a study is rather a trial
NAMED = 6  # classes that a line lists


def seen(found: Survey) -> list[str]:
    """What is there, line by line."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.most_common())
    heights, widths = zip(*found.sizes, strict=True)
    usual = f"{middle(heights)}×{middle(widths)}"
    if len(set(found.sizes)) > 1:
        usual += f" as a rule ({min(heights)}×{min(widths)} to {max(heights)}×{max(widths)})"
    lines = [f"{found.files:,} files; {found.sampled} of them looked at: {kinds}; height × width {usual}"]
    if bad := found.unusable.total():
        what = "is no image" if bad == 1 else "are no images"
        lines.append(
            f"  {bad} of these {what} ({_counted(found.unusable)}): prepare leaves such files out and says why"
        )
    if found.treatments:
        lines.append(f"  made plain RGB of 8 bits: {_counted(found.treatments)} (docs/data.md has these words)")
    lines.append(_labels(found))
    if found.groups:
        level = isinstance(found.source["group"], int)
        place = f"folders of level {found.source['group']}" if level else f"the column {found.source['group']}"
        lines.append(f"{found.groups:,} groups by {place}: none will be in two splits")
    if found.parts:
        lines.append("a split of its own: " + ", ".join(f"{name} {count:,}" for name, count in found.parts.items()))
    return [*lines, *(f"note: {note}" for note in found.notes)]


def decided(found: Survey, plan: Plan) -> list[str]:
    """What the study does, and why, line by line."""
    where = "the GPU here" if plan.gpu else f"{plan.threads} CPU threads, as torch finds no GPU here"
    size = f"about {plan.train:,} images at {plan.side}×{plan.side} in batches of {plan.batch}"
    lines = [f"pretraining on {where}: {plan.epochs} epochs of {size}"]
    if plan.subset:
        lines.append(f"  of {plan.subset:,} images only, as a CPU takes long for all: `subset: null` takes all")
    if plan.unjudged:
        lines.append(f"no probes and no fine-tuning, only the shape of the features, since {plan.unjudged}")
    else:
        each = f"about {plan.each:.0f} labels of each class in train"
        lines.append(f"label budgets {' and '.join(plan.budgets)}, as there are {each}")
    if plan.bad > 0.01:
        lines.append(f"quality.bad: {plan.bad:g} lets so many bad files pass: look at quarantine.csv and lower it")
    if found.files > SHARDS:
        lines.append(f"more than {SHARDS:,} files: the source `shards` reads tar files faster (docs/data.md)")
    if found.files < TRIAL:
        lines.append("few images: see it as a trial; an encoder wants thousands, with or without labels")
    return lines


def _labels(found: Survey) -> str:
    if not found.labels:
        return "no labels: neither folders nor a table (file,label) in CSV or parquet"
    where = f"in {found.source['labels']}" if found.source["labels"] else "by folder"
    counts = [f"{name} {count:,}" for name, count in sorted(found.labels.items(), key=lambda item: -item[1])]
    shown = counts if len(counts) <= NAMED else [*counts[: NAMED // 2], "…", counts[-1]]
    return f"{found.labeled:,} labels of {len(counts):,} class{'es' * (len(counts) > 1)} {where}: {', '.join(shown)}"


def _counted(counter: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items(), key=lambda item: -item[1]))
