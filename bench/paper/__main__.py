"""The paper's evaluation on this machine: `python -m bench.paper --output DIR`.

Measures each system, simulates any number of workers from that, and writes DIR/RESULTS.md and
pictures. What was measured is kept in DIR/measured, part by part: a run that was ended goes on
where it was, and `--only PART` measures a part, again with `--again`. docs/experiment.md says what
everything means. Rows are those of bench/data.py: made-up clicks, or the files that
CIRRUS_FAST_BENCH_TEXT=train.svm:test.svm names.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Of fewer, the mini-batches of two workers would be more than training allows under way.
QUICK_ROWS = 60_000


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, few workers")
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--again", action="store_true", help="measure what is kept already too")
    parser.add_argument("--no-report", action="store_true", help="measure only")
    parser.add_argument(
        "--targets", type=float, nargs=2, default=(), metavar="LOSS",
        help="test log-losses to reach (default: what one worker has after 0.7 and 1.4 passes)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if given.quick:  # read when bench.data is imported, here and in processes
        os.environ.setdefault("CIRRUS_FAST_BENCH_ROWS", str(QUICK_ROWS))
    from bench.paper.experiment import Experiment, Settings

    settings = Settings(given.output, targets=tuple(sorted(given.targets, reverse=True)))
    if given.quick:
        settings = Settings(
            given.output, quick=True, workers=(1, 2), seconds=0.5, targets=settings.targets
        )
    experiment = Experiment(settings)
    unknown = set(given.only) - set(experiment.parts())
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: one of {', '.join(experiment.parts())}")
    experiment.measure(given.only, again=given.again)
    if not given.no_report:
        from bench.paper.report import write

        write(experiment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
