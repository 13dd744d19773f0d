"""What the last run of a checkout made, for the end of a command."""

from contextlib import suppress

from gan_core.files import read_json
from pipelines.runtime.checkout import SAMPLES, Checkout


def result_summary(checkout: Checkout) -> list[str]:
    """A line each for the figure, the registered version and the contact sheet, as far as the checkout has them."""
    lines = []
    with suppress(KeyError, TypeError):  # a project may have stages of its own, with results of another form
        if checkout.metrics.is_file():
            fid = read_json(checkout.metrics)["fid"]
            lines.append(f"  FID            {fid['value']:.2f}  ({fid['stamp']})")
        if checkout.registered.is_file():
            version = read_json(checkout.registered)
            lines.append(f"  registered     {version['name']} version {version['version']}, alias {version['alias']}")
        if checkout.samples.is_file():
            lines.append(f"  contact sheet  {SAMPLES}")
    return lines
