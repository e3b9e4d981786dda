"""Time of a fit against the usual grid of L-BFGS starts, with other sizes than `epochal bench fit`.

    python benchmarks/fit_speed.py [--rows 240] [--sample 30] [--resamples 500]

`--sample 4500` runs all of the peer's starts. What is measured: src/epochal/bench/fit.py.
"""

from __future__ import annotations

import argparse

from epochal.bench.fit import RESAMPLES, ROWS, fit_rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--sample", type=int, default=30, help="of the 4500 starts, per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    arguments = parser.parse_args()
    for row in fit_rows(arguments.rounds, arguments.sample, arguments.rows, arguments.resamples):
        span = f"({row.low:.3g} – {row.high:.3g})"
        print(f"{row.name:<36}{row.value:>12.4g} {row.unit:<2} {span:<20} {row.note}")


if __name__ == "__main__":
    main()
