"""Print what was measured here, and what the model makes of it for many workers."""

import argparse

from tests.scale.costs import FAMILIES, WORLDS, all_reduce_seconds, events_per_second, step_costs
from tests.scale.model import Network, model_step
from tests.scale.queries import RUNS, VERSIONS, query_seconds

WORKERS = (8, 64, 512, 1024)


def main() -> None:
    """The tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--latency-us", type=float, default=50, help="assumed latency between hosts (default 50)")
    parser.add_argument("--gbit", type=float, default=10, help="assumed rate into a host (default 10)")
    parser.add_argument(
        "--speed", type=float, default=50, help="how much faster an assumed accelerator is (default 50)"
    )
    options = parser.parse_args()
    network = Network(latency=options.latency_us / 1e6, rate=options.gbit * 1e9 / 8)

    print("MEASURED on this machine")
    measured = {}
    for name in FAMILIES:
        costs, saved = step_costs(name)
        measured[name] = costs
        print(
            f"  {name}: step {costs.step_seconds:.3f} s (batch {costs.batch}, one thread); averages of gradients "
            f"{', '.join(f'{size / 1e6:.1f}' for size in costs.gradient_bytes)} MB; {costs.small_collectives} small "
            f"collectives; picture {costs.picture_bytes / 1e3:.1f} kB; checkpoint {saved['bytes'] / 1e6:.0f} MB in "
            f"{saved['seconds']:.2f} s",
            flush=True,
        )
    for size in (256, 12_000_000):
        times = {world: all_reduce_seconds(size, world) for world in WORLDS}
        print(
            f"  all-reduce of {size:,} bytes (gloo): "
            + ", ".join(f"{world} processes {seconds * 1e3:.2f} ms" for world, seconds in times.items()),
            flush=True,
        )
    print(f"  rows of metrics recorded by one process: {events_per_second():,.0f} a second")
    print(f"  queries with {RUNS:,} runs and {VERSIONS:,} versions (SQLite):")
    for name, seconds in query_seconds().items():
        print(f"    {name}" + (f": {seconds * 1e3:.1f} ms" if seconds else ""))

    print(f"\nMODELLED, with {options.latency_us:.0f} us and {options.gbit:g} Gbit/s between hosts, one worker each")
    print(
        f"  {'':22} {'workers':>7} {'compute':>8} {'gradients':>9} {'small':>8} {'efficiency':>10} {'streamed':>8}  limit"
    )
    for name, costs in measured.items():
        for speed in (1.0, options.speed):
            for workers in WORKERS:
                step = model_step(costs, network, workers, speed=speed)
                title = f"{name}, {'CPU' if speed == 1 else f'{speed:g}x as fast'}"
                print(
                    f"  {title:22} {workers:7} {step.compute:7.3f}s {step.gradients:8.3f}s {step.small:7.3f}s "
                    f"{step.efficiency:10.0%} {step.streamed:8.0%}  {step.limit}"
                )


if __name__ == "__main__":
    main()
