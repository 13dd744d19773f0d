"""Convert the search ranges of params.yaml to a search space of Ray Tune."""

from collections.abc import Mapping
from typing import Any

from pipelines.settings.ranges import Range


def search_space(ranges: Mapping[str, Range]) -> dict[str, Any]:
    """Ray Tune's search space for ``ranges``, by dotted name."""
    from ray import tune

    def domain(limits: Range) -> Any:
        if limits.type == "choice":
            return tune.choice(list(limits.values or ()))
        if limits.type == "integer":
            return tune.randint(int(limits.low), int(limits.high) + 1)  # type: ignore[arg-type]
        low, high = float(limits.low), float(limits.high)  # type: ignore[arg-type]
        return tune.loguniform(low, high) if limits.type == "log" else tune.uniform(low, high)

    return {name: domain(limits) for name, limits in ranges.items()}
