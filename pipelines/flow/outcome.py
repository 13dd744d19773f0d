"""Summarise the results of the last run of a checkout."""

from contextlib import suppress

from gan_core.files import read_json
from pipelines.runtime.checkout import SAMPLES, Checkout
from pipelines.runtime.progress import format_figure


def result_summary(checkout: Checkout) -> list[str]:
    """Lines for the FID, the registered version and the contact sheet, if they exist."""
    lines = []
    with suppress(KeyError, TypeError):  # a project may have its own stages, with other results
        if checkout.metrics.is_file():
            measured = read_json(checkout.metrics)
            fid, objective = measured["fid"], measured.get("objective")
            lines.append(f"  FID            {fid['value']:.2f}  ({fid['stamp']})")
            if objective:
                lines.append(f"  objective      {objective['name']} {format_figure(objective['value'])}")
        if checkout.registered.is_file():
            version = read_json(checkout.registered)
            lines.append(f"  registered     {version['name']} version {version['version']}, alias {version['alias']}")
        if checkout.samples.is_file():
            lines.append(f"  contact sheet  {SAMPLES}")
    return lines
