"""Power of accelerators: shares of their class, their own figures, and figures that contradict each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware import list_devices, load_device
from servetwin.hardware.base import read_device
from servetwin.hardware.power import device_power

H100 = load_device("H100-SXM")


@pytest.mark.parametrize("device", list_devices(), ids=lambda device: device.name)
def test_every_device_has_power_or_says_what_is_missing(device) -> None:  # type: ignore[no-untyped-def]
    """Built-in devices have ascending powers; one without figures names them and where to give them."""
    if device.idle_w is None or device.limit_w is None:
        with pytest.raises(InputError, match=rf"{device.name} has no power figures: .*power\.devices\.{device.name}"):
            device_power(device)
        return
    power = device_power(device)
    assert 0 < power.idle_w <= power.standby_w <= power.kernel_w <= power.limit_w


def test_compute_and_bandwidth_at_their_peaks_fit_the_board() -> None:
    """On H100 reading KV at the memory's peak reaches the limit; reading weights does not, nor does standing by."""
    power = device_power(H100)
    bandwidth = H100.memory_bandwidth_bytes_per_s
    assert power.kernel_w + bandwidth * power.joules_per_weight_byte < power.limit_w
    assert power.kernel_w + bandwidth * power.joules_per_kv_byte > power.limit_w


def test_own_figures_come_first() -> None:
    """What is given replaces what a file says, which replaces the class's share; other formats follow bf16."""
    file = {
        "name": "X",
        "memory_gib": 10,
        "memory_bandwidth_gb_per_s": 1000,
        "peak_dense_tflops": {"bf16": 100},
        "power": {"idle_w": 20, "limit_w": 200, "kernel_w": 90},
    }
    device = read_device(file, where="x.yaml")
    assert device_power(device).kernel_w == 90
    changed = device_power(device, {"kernel_w": 100.0, "joules_per_flop": 1e-12})
    assert changed.kernel_w == 100
    assert changed.flop_energy("bf16") == 1e-12
    assert changed.flop_energy("fp8") == pytest.approx(
        device_power(device).flop_energy("fp8") / device_power(device).flop_energy("bf16") * 1e-12
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"idle_w": 800.0}, r"H100-SXM: idle_w \(800\) is not below limit_w \(700\)"),
        ({"standby_w": 30.0}, r"idle_w \(70\) must be at least 0 and at most standby_w \(30\)"),
        ({"kernel_w": 900.0}, r"kernel_w \(900\) must be at least 0 and at most limit_w \(700\)"),
        ({"idle": 3.0}, r"unknown power figure 'idle'; did you mean 'idle_w'"),
    ],
)
def test_figures_that_contradict_each_other(given: dict[str, float], message: str) -> None:
    """Power above the limit, idle above active: the key and both figures are named."""
    with pytest.raises(InputError, match=message):
        device_power(H100, given, where="power.devices.H100-SXM")


def test_a_device_without_peaks_in_bf16_counts_in_what_it_has() -> None:
    """Its energy per operation comes from the format that it has."""
    other = replace(H100, family=None)
    device = replace(other, peak_flops={"fp32": 1e14})
    expected = device_power(other).flop_energy("bf16") * H100.peak("bf16") / 2e14
    assert device_power(device).flop_energy("bf16") == pytest.approx(expected)


def test_boards_of_one_chip_share_its_energies() -> None:
    """H20 and H200 take what H100 takes per operation and byte; their limits and floors are their own."""
    powers = [device_power(load_device(name)) for name in ("H100-SXM", "H200-SXM", "H20")]
    assert len({power.joules_per_weight_byte for power in powers}) == 1
    assert len({power.flop_energy("bf16") for power in powers}) == 1
    assert len({power.kernel_w for power in powers}) == 2


@given(st.floats(0.2, 1.0), st.floats(0.2, 1.0))
def test_lower_clocks_draw_less(one: float, other: float) -> None:
    """Voltage and the floor of kernels rise with the clock and end at the highest one's."""
    power = device_power(H100)
    low, high = sorted((one, other))
    assert power.kernel_w_at(low) <= power.kernel_w_at(high) <= power.kernel_w_at(1.0) == power.kernel_w
    assert power.voltage(low) <= power.voltage(high) <= power.voltage(1.0) == 1.0
