"""Show the difference between two datasets as a table for people."""

from collections.abc import Mapping

from pipelines.datadiff.diff import Counts, DataDiff, Side
from pipelines.runtime.progress import format_figure

_MOST_CLASSES = 30
_BETTER = {"coverage": "share of the new pictures that the old ones cover"}


def diff_lines(diff: DataDiff) -> list[str]:
    """Lines of a table: what differs, counts, and figures."""
    lines = [f"before  {_side(diff.before)}", f"after   {_side(diff.after)}"]
    if diff.same:
        return [*lines, "The data is the same."]
    if diff.matched_by == "name":
        lines.append("The shape of the pictures differs, so pictures are matched by the names of their source files.")
    lines += ["", *_table({"pictures": diff.pictures, **{f"split {name}": of for name, of in diff.splits.items()}})]
    if diff.classes:
        changed = {name: of for name, of in diff.classes.items() if of.added or of.removed or of.before != of.after}
        shown = dict(list(changed.items())[:_MOST_CLASSES])
        same = len(diff.classes) - len(changed)
        lines += ["", *(_table(shown) if shown else []), *([f"{same} classes have the same pictures."] if same else [])]
        if len(changed) > len(shown):
            lines.append(f"{len(changed) - len(shown)} more classes differ; --json lists all.")
    what = "Changed (added, removed, in another split, or with another label)"
    lines += ["", f"{what}: {diff.share:.1%} of the number of old pictures."]
    lines += [f"{diff.moved:,} pictures are in another split, {diff.relabelled:,} have another label."]
    lines.append(
        f"Duplicates removed: {diff.before.duplicates:,} before, {diff.after.duplicates:,} after. In several splits or "
        f"classes: {diff.before.shared:,} before, {diff.after.shared:,} after. Rejects: {diff.before.rejects:,} before, "
        f"{diff.after.rejects:,} after."
    )
    for figure in diff.figures:
        low, high = figure.get("low"), figure.get("high")
        interval = "" if low is None or high is None else f", {format_figure(low)} to {format_figure(high)}"
        meaning = f", {_BETTER[figure['name']]}" if figure["name"] in _BETTER else ""
        lines.append(
            f"{figure['name'].upper()} {format_figure(figure['value'])}{interval}  ({figure['stamp']}{meaning})"
        )
    lines += [f"{name.upper()} was not measured: {why}." for name, why in diff.omitted.items()]
    return lines


def _side(side: Side) -> str:
    return (
        f"{side.name}: {side.pictures:,} pictures, {side.width}x{side.height}, {side.channels} channel(s), {side.kind}, data "
        f"{side.digest[:8]}"
    )


def _table(rows: Mapping[str, Counts]) -> list[str]:
    width = max(map(len, rows))
    lines = [f"{'':{width}}  {'before':>9}  {'after':>9}  {'added':>9}  {'removed':>9}"]
    for name, of in rows.items():
        lines.append(f"{name:{width}}  {of.before:>9,}  {of.after:>9,}  {of.added:>9,}  {of.removed:>9,}")
    return lines
