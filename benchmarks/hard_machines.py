"""Write the harder synthetic data set of docs/results: the demo's machines with faults hardly louder than nothing.

    python benchmarks/hard_machines.py hard/

Three kinds of machine, two IDs each, 250 normal clips of 10 s an ID, and 128 anomalies for ID 00 of every
kind. The faults of the demo stand at -6 dB; here they are weaker. The same command gives the same samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset
from edgeasd.toolkit.demo.machines import KINDS
from edgeasd.toolkit.progress import progress

FAULT_DB = -12.0
PLAN = DatasetPlan(
    ids=("00", "02"),
    normals=250,
    anomalies=128,
    anomaly_ids={kind: ("00",) for kind in KINDS},
    fault_snr_db=FAULT_DB,
    seed=3,
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("root", type=Path, help="a new folder")
    root = arguments.parse_args().root
    with progress("synthetic clips") as report:
        write_dataset(root, PLAN, report)
    print(root)


if __name__ == "__main__":
    main()
