"""Fits the power of H100: ``python -m servetwin.calibrate.fit_power``. Needs ``servetwin[fit]`` (SciPy).

Prints the figures that stand in ``hardware/power_classes.yaml`` (energies for Hopper, shares of the limit for chips of
which nothing was measured); the same data give the same figures.
"""

from __future__ import annotations

import sys

import numpy as np

from servetwin.calibrate.accuracy import reference_folder
from servetwin.calibrate.power.mlenergy_power import fit_power, read_power_rows
from servetwin.calibrate.roofline.run_fit import DEVICE, Models
from servetwin.calibrate.roofline_cases import coefficients
from servetwin.hardware.catalogue import load_device


def main() -> int:
    """Fit, and print the shares and the errors."""
    rows = read_power_rows(reference_folder(), Models(coefficients("mlenergy")))
    power, device = fit_power(rows), load_device(DEVICE)
    bandwidth = device.memory_bandwidth_bytes_per_s
    shares = {
        "kernel_share": power.kernel_w,
        "compute_share": power.joules_per_flop["bf16"] * device.peak("bf16"),
        "weight_share": power.joules_per_weight_byte * bandwidth,
        "kv_share": power.joules_per_kv_byte * bandwidth,
    }
    for name, watts in shares.items():
        print(f"{name}: {watts / power.limit_w:.3f}")
    for name, joules in (
        ("joules_per_flop", power.joules_per_flop["bf16"]),
        ("joules_per_weight_byte", power.joules_per_weight_byte),
        ("joules_per_kv_byte", power.joules_per_kv_byte),
    ):
        print(f"{name}: {joules:.2e}")
    print(f"format_energy fp8: {power.joules_per_flop['fp8'] / power.joules_per_flop['bf16']:.2f}")
    errors = np.abs([row.errors(power) for row in rows])
    print(f"median errors: power {np.median(errors[:, 0]):.1%}, energy per token {np.median(errors[:, 1]):.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
