"""What the last run of a checkout made, for the end of a command."""

from contextlib import suppress
from pathlib import Path

from gan_core.files import read_json


def made(root: Path) -> list[str]:
    """A line each for the figure, the registered version and the contact sheet, as far as the checkout has them."""
    lines = []
    metrics, registered = root / "outputs/evaluate/metrics.json", root / "outputs/register/registered.json"
    sheet = root / "outputs/evaluate/samples.png"
    with suppress(KeyError, TypeError):  # a project may have stages of its own, with results of another form
        if metrics.is_file():
            fid = read_json(metrics)["fid"]
            lines.append(f"  FID            {fid['value']:.2f}  ({fid['stamp']})")
        if registered.is_file():
            version = read_json(registered)
            lines.append(f"  registered     {version['name']} version {version['version']}, alias {version['alias']}")
        if sheet.is_file():
            lines.append(f"  contact sheet  {sheet.relative_to(root)}")
    return lines
