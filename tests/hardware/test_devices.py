"""The device catalogue: dense peaks, memory sizes, sources, and a user's own device."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.core.units import GIB
from servetwin.hardware import Device, device_names, list_devices, load_device
from servetwin.hardware.base import MIB, read_device
from servetwin.network import LINK_CLASSES

DENSE_BF16_TFLOPS = {
    "A100-SXM-40GB": 312,
    "A100-SXM-80GB": 312,
    "B200": 2250,
    "H100-PCIe": 756,
    "H100-SXM": 989.4,
    "H200-SXM": 989.4,
    "L4": 121,
    "L40S": 362,
    "MI300X": 1307.4,
    "RTX4090": 165.2,
    "RTXA6000": 154.8,
    "RTXPRO6000": 500,
    "RTXPRO6000-Workstation": 503.8,
    "TPU-v6e": 918,
}
"""Without sparsity, from the vendors' data sheets; the sparse figures are twice these."""

MEMORY_REPORTED_MIB = {"RTX4090": 24_564, "RTXA6000": 49_140, "H100-SXM": 81_559, "RTXPRO6000": 97_887}

devices = pytest.mark.parametrize("device", list_devices(), ids=lambda device: device.name)

OWN: dict[str, Any] = {
    "name": "Own",
    "memory_gib": 64,
    "memory_bandwidth_gb_per_s": 1200,
    "peak_dense_tflops": {"bf16": 300},
}


def test_every_device_has_its_dense_peak() -> None:
    """Each card's bf16 peak is the dense one; a new card must be entered here too."""
    peaks = {device.name: device.peak("bf16") / 1e12 for device in list_devices()}
    assert peaks == {name: pytest.approx(tflops, rel=0.001) for name, tflops in DENSE_BF16_TFLOPS.items()}


@devices
def test_no_peak_counts_on_sparsity(device: Device) -> None:
    """Halving a format's width at most doubles the dense peak: a sparse figure would be another factor of two."""
    peaks = device.peak_flops
    bf16 = peaks["bf16"]
    assert peaks.get("fp16", bf16) == bf16
    assert peaks.get("tf32", bf16 / 2) <= bf16 / 2 * 1.02
    assert peaks.get("fp8", 0) <= 2.03 * bf16
    assert peaks.get("fp4", 0) <= 4.05 * bf16
    # GeForce cards halve products that accumulate in 32 bits; whole numbers are not halved.
    assert peaks.get("int8", 0) <= (4 if "4090" in device.name else 2.03) * bf16


@devices
def test_every_figure_has_its_source(device: Device) -> None:
    """Each figure of a built-in device says where it comes from."""
    stated = {"memory_gib", "memory_bandwidth_gb_per_s", "peak_dense_tflops"}
    stated |= {"idle_w"} if device.idle_w else set()
    stated |= {"limit_w"} if device.limit_w else set()
    stated |= {"links"} if device.scale_up or device.pcie else set()
    stated |= {"reported_memory_mib"} if "reported_memory_mib" in device.sources else set()
    assert stated <= set(device.sources)
    assert device.memory_bytes == device.nominal_memory_bytes or "reported_memory_mib" in device.sources


@devices
def test_figures_are_of_a_plausible_size(device: Device) -> None:
    """A slip of a unit (GB for GiB, TB/s for GB/s, bits for bytes) would leave these ranges."""
    assert 0.9 <= device.memory_bytes / device.nominal_memory_bytes <= 1
    assert 15 * GIB < device.memory_bytes < 400 * GIB
    assert 2e11 < device.memory_bandwidth_bytes_per_s < 1e13
    assert 50 < device.peak("bf16") / device.memory_bandwidth_bytes_per_s < 700
    assert device.idle_w is None or device.limit_w is None or device.idle_w < 0.3 * device.limit_w


@devices
def test_link_classes_have_defaults(device: Device) -> None:
    """The network knows a default latency for every link of the catalogue."""
    links = [link for link in (device.scale_up, device.pcie) if link is not None]
    assert links
    assert {link.link_class for link in links} <= set(LINK_CLASSES)


@pytest.mark.parametrize(("name", "mib"), MEMORY_REPORTED_MIB.items())
def test_memory_is_what_the_device_reports(name: str, mib: int) -> None:
    """The memory that counts is what nvidia-smi shows, not the size on the box; both are kept."""
    device = load_device(name)
    assert device.memory_bytes == mib * MIB
    assert device.nominal_memory_bytes > device.memory_bytes


def test_names_are_distinct_and_match_their_files() -> None:
    """A device is named as its file; names and aliases are distinct."""
    assert [device.name for device in list_devices()] == device_names()
    names = [name.casefold() for device in list_devices() for name in (device.name, *device.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("alias", "name"), [("A6000", "RTXA6000"), ("TPU-v6e-1", "TPU-v6e"), ("h100", "H100-SXM")])
def test_aliases_in_any_case(alias: str, name: str) -> None:
    """An alias means its device, in any case."""
    assert load_device(alias) is load_device(name)


def test_an_unknown_name_gets_the_nearest() -> None:
    """A misspelt device is an error with its place and the nearest name."""
    with pytest.raises(InputError, match=r"^cluster\.chat\.hardware\.device: .*did you mean 'H100-SXM'"):
        load_device("H100-SMX", where="cluster.chat.hardware.device")


def test_a_device_of_ten_lines(tmp_path: Path) -> None:
    """A user's own device is a file of ten lines, found relative to the scenario."""
    (tmp_path / "own.yaml").write_text(
        "name: Own\nvendor: Acme\nmemory_gib: 64\nreported_memory_mib: 65000\nmemory_bandwidth_gb_per_s: 1.2e3\n"
        "peak_dense_tflops: {bf16: 300, fp16: 300}\nlinks:\n"
        "  scale_up: {class: acmelink, gb_per_s_per_direction: 100}\n"
        "  pcie: {class: pcie_gen5, gb_per_s_per_direction: 64}\npower: {idle_w: 40, limit_w: 300}\n"
    )
    device = load_device("own.yaml", relative_to=tmp_path)
    assert device.memory_bytes == 65_000 * MIB
    assert device.memory_bandwidth_bytes_per_s == 1.2e12
    assert device.scale_up is not None
    assert device.scale_up.bandwidth_bytes_per_s == 1e11
    assert (device.idle_w, device.limit_w) == (40, 300)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_gib": None}, "memory_gib is missing"),
        ({"memory_gib": -1}, "memory_gib must be a number above 0, got -1"),
        ({"memory_bandwidth_gb_per_s": float("nan")}, "memory_bandwidth_gb_per_s must be a number above 0, got nan"),
        ({"memory_bandwith_gb_per_s": 1}, "unknown key 'memory_bandwith_gb_per_s'; did you mean 'memory_bandwidth_gb"),
        ({"reported_memory_mib": 70_000}, "is more than memory_gib"),
        ({"peak_dense_tflops": {}}, "states no peak"),
        ({"peak_dense_tflops": {"bf61": 1}}, "unknown key 'bf61'; did you mean 'bf16'"),
        ({"links": {"pcie": {"class": "pcie_gen5"}}}, "links: pcie: gb_per_s_per_direction is missing"),
        ({"links": {"pci": {}}}, "unknown key 'pci'; did you mean 'pcie'"),
        ({"power": {"idle": 3}}, "unknown key 'idle'; did you mean 'idle_w'"),
        ({"aliases": "A"}, "aliases must be a list of texts"),
    ],
)
def test_a_bad_device_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    """Missing, misspelt and absurd figures are refused with the file and the key."""
    with pytest.raises(InputError, match=rf"^own\.yaml: .*{re.escape(message)}"):
        read_device({**OWN, **changes}, where="own.yaml")


def test_a_format_without_a_peak_is_refused() -> None:
    """A device without the wanted format says which it has."""
    with pytest.raises(InputError, match=r"Own has no peak for fp16; its formats: bf16"):
        read_device(OWN, where="own.yaml").peak("float16")


@given(
    st.dictionaries(
        st.sampled_from([*OWN, "links", "power", "vendor", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["bf16", "pcie", "idle_w"]), inner)
            ),
            max_leaves=4,
        ),
    )
)
def test_any_device_is_read_or_refused_in_words(changes: dict[str, object]) -> None:
    """Whatever stands in a device's file, reading it gives a device or an InputError."""
    with suppress(InputError):
        assert read_device({**OWN, **changes}, where="own.yaml").memory_bytes > 0
