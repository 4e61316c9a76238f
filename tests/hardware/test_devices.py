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
from servetwin.hardware import (
    LAUNCH_CLASSES,
    Device,
    LaunchClass,
    device_names,
    launch_class,
    list_devices,
    load_device,
)
from servetwin.hardware.base import MIB, read_device
from servetwin.network import LINK_CLASSES

DENSE_TFLOPS = {
    "A10": 125,
    "A100-PCIe-40GB": 312,
    "A100-PCIe-80GB": 312,
    "A100-SXM-40GB": 312,
    "A100-SXM-80GB": 312,
    "Ascend-910B": 313,
    "Ascend-910C": 752,
    "B200": 2250,
    "B300": 2250,
    "GB200": 2500,
    "GB300": 2500,
    "Gaudi2": 432,
    "Gaudi3": 1835,
    "H100-NVL": 835.5,
    "H100-PCIe": 756,
    "H100-SXM": 989.4,
    "H20": 148,
    "H200-NVL": 835.5,
    "H200-SXM": 989.4,
    "Intel-Max-1550": 838.9,
    "L4": 121,
    "L40S": 362,
    "MI250": 362.1,
    "MI250-GCD": 181.05,
    "MI300X": 1307.4,
    "MI325X": 1307.4,
    "MI355X": 2516.6,
    "RTX3090": 71,
    "RTX4090": 165.2,
    "RTX5090": 209.5,
    "RTXA6000": 154.8,
    "RTXPRO6000": 500,
    "RTXPRO6000-Workstation": 503.8,
    "TPU-v5e": 197,
    "TPU-v5p": 459,
    "TPU-v6e": 918,
    "V100-PCIe-32GB": 112,
    "V100-SXM-16GB": 125,
    "V100-SXM-32GB": 125,
    "Xeon-8480": 229.4,
}
"""Dense peaks of bf16 (fp16 where there is none), from the data sheets; the sparse figures are twice these."""

UNITS = {
    "A10": (512, 1695),
    "A100-PCIe-80GB": (1024, 1410),
    "A100-SXM-80GB": (1024, 1410),
    "H100-NVL": (2048, 1545),
    "H100-PCIe": (2048, 1620),
    "H100-SXM": (2048, 1830),
    "Intel-Max-1550": (2048, 1600),
    "L4": (512, 2040),
    "L40S": (512, 2520),
    "MI250": (512, 1700),
    "MI300X": (1024, 2100),
    "MI325X": (1024, 2100),
    "MI355X": (2048, 2400),
    "RTX3090": (256, 1695),
    "RTX4090": (256, 2520),
    "RTX5090": (256, 2407),
    "RTXA6000": (512, 1800),
    "RTXPRO6000-Workstation": (512, 2617),
    "V100-SXM-32GB": (512, 1530),
    "Xeon-8480": (1024, 2000),
}
"""Multiply-adds of 16 bits with 32-bit accumulation per cycle and multiprocessor, and the clock in MHz."""

MEMORY_REPORTED_MIB = {"RTX4090": 24_564, "RTXA6000": 49_140, "H100-SXM": 81_559, "RTXPRO6000": 97_887}

FAMILIES = (
    *("volta", "ampere", "ampere_ga102", "ada", "hopper", "blackwell", "blackwell_rtx"),
    *("cdna2", "cdna3", "cdna4", "tpu", "gaudi", "ascend", "xe_hpc", "cpu"),
)

ASKED_FOR = (
    *("V100", "A100-40GB", "A100-80GB", "A100-PCIe-40GB", "A100-PCIe-80GB", "A10", "L4", "L40S", "RTX3090", "RTX4090"),
    *("RTX5090", "A6000", "RTX-PRO-6000", "H100-PCIe", "H100-SXM", "H100-NVL", "H200", "H20", "B200", "B300", "GB200"),
    *("GB300", "MI250", "MI300X", "MI325X", "MI355X", "TPU-v5e", "TPU-v5p", "TPU-v6e", "Gaudi2", "Gaudi3"),
    *("Ascend-910B", "Ascend-910C", "Max-1550", "CPU"),
)

devices = pytest.mark.parametrize("device", list_devices(), ids=lambda device: device.name)

OWN: dict[str, Any] = {
    "name": "Own",
    "memory_gib": 64,
    "memory_bandwidth_gb_per_s": 1200,
    "peak_dense_tflops": {"bf16": 300},
}


def matrix_peak(device: Device) -> float:
    """Return the peak of 16-bit products, in FLOP/s."""
    return device.peak_flops.get("bf16") or device.peak_flops["fp16"]


def test_every_device_has_its_dense_peak() -> None:
    """Each card's 16-bit peak is the dense one; a new card must be entered here too."""
    peaks = {device.name: matrix_peak(device) / 1e12 for device in list_devices()}
    assert peaks == {name: pytest.approx(tflops, rel=0.001) for name, tflops in DENSE_TFLOPS.items()}


@pytest.mark.parametrize("name", UNITS)
def test_peaks_are_units_times_clock(name: str) -> None:
    """A dense peak is what the matrix units do in a cycle, times the clock; a sparse one would be twice that."""
    device = load_device(name)
    multiply_adds, mhz = UNITS[name]
    assert device.multiprocessors
    assert matrix_peak(device) == pytest.approx(device.multiprocessors * multiply_adds * 2 * mhz * 1e6, rel=0.02)


@devices
def test_no_peak_counts_on_sparsity(device: Device) -> None:
    """Halving a format's width at most doubles the dense peak: a sparse figure would be another factor of two."""
    peaks = device.peak_flops
    wide = matrix_peak(device)
    assert peaks.get("fp16", wide) == wide
    assert peaks.get("tf32", wide / 2) <= wide / 2 * 1.02
    assert peaks["fp32"] <= wide / 2 * 1.01 if "fp32" in peaks else True
    assert peaks.get("fp8", 0) <= 2.03 * wide
    # GeForce cards halve products that accumulate in 32 bits; whole numbers and FP4 are not halved.
    halved = 2 if device.name in ("RTX3090", "RTX4090", "RTX5090") else 1
    # Blackwell Ultra computes FP4 three times as fast as FP8; everything else, twice.
    assert peaks.get("fp4", 0) <= (6.01 if device.name in ("B300", "GB300") else 4.05 * halved) * wide
    assert peaks.get("int8", 0) <= 2.03 * halved * wide
    assert peaks.get("int4", 0) <= 2.03 * peaks.get("int8", 0)


@devices
def test_every_figure_has_its_source(device: Device) -> None:
    """Each figure of a built-in device says where it comes from, and each that is missing says so."""
    stated = {"memory_gib", "memory_bandwidth_gb_per_s", "peak_dense_tflops", "reported_memory_mib"}
    stated |= {"idle_w", "limit_w"}
    stated |= {"links"} if device.scale_up or device.pcie else set()
    stated |= {"multiprocessors"} if device.multiprocessors else set()
    assert {name for name in stated if not device.sources.get(name)} == set()
    for name, watts in (("idle_w", device.idle_w), ("limit_w", device.limit_w)):
        assert (watts is None) == device.sources[name].startswith("not published")


@devices
def test_figures_are_of_a_sane_size(device: Device) -> None:
    """A slip of a unit (GB for GiB, TB/s for GB/s, bits for bytes) would leave these ranges."""
    assert 0.9 <= device.memory_bytes / device.nominal_memory_bytes <= 1
    assert 15 * GIB < device.memory_bytes < 600 * GIB
    assert 2e11 < device.memory_bandwidth_bytes_per_s < 1e13
    assert 30 < matrix_peak(device) / device.memory_bandwidth_bytes_per_s < 800
    assert device.idle_w is None or device.limit_w is None or device.idle_w < 0.3 * device.limit_w
    assert device.family in FAMILIES


def test_the_kinds_that_users_ask_for_are_there() -> None:
    """Every accelerator that the catalogue promises is found under its common name."""
    for name in ASKED_FOR:
        assert load_device(name).name in device_names()


@devices
def test_link_classes_have_defaults(device: Device) -> None:
    """The network knows every link of the catalogue, at no less than the device's bandwidth per direction."""
    links = [link for link in (device.scale_up, device.pcie) if link is not None]
    assert links
    assert {link.link_class for link in links} <= set(LINK_CLASSES)
    if device.scale_up is not None:
        default = LINK_CLASSES[device.scale_up.link_class].link.bandwidth_bytes_per_s
        assert 0 < device.scale_up.bandwidth_bytes_per_s <= default
    if device.pcie is not None:
        lanes_of_sixteen = {"pcie_gen3": 16e9, "pcie_gen4": 32e9, "pcie_gen5": 64e9, "pcie_gen6": 128e9}
        assert device.pcie.bandwidth_bytes_per_s == lanes_of_sixteen[device.pcie.link_class]


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
    """A user's own device is the ten lines of the docs, found relative to the scenario."""
    text = (Path(__file__).parents[2] / "docs" / "devices.md").read_text(encoding="utf-8")
    example = text.split("## Your own device")[1].split("```yaml\n")[1].split("```")[0]
    assert len(example.splitlines()) == 10
    (tmp_path / "own.yaml").write_text(example, encoding="utf-8")
    device = load_device("own.yaml", relative_to=tmp_path)
    assert (device.name, device.family, device.launch.name) == ("Acme-1", "hopper", "cuda_graph")
    assert device.memory_bytes == 97_871 * MIB
    assert device.memory_bandwidth_bytes_per_s == 4e12
    assert device.peak("fp8") == 1e15
    assert device.scale_up is not None
    assert device.scale_up.bandwidth_bytes_per_s == 4.5e11
    assert (device.idle_w, device.limit_w) == (70, 600)


def test_the_docs_name_what_there_is() -> None:
    """The page on devices has each launch class with its figures, and each family."""
    text = (Path(__file__).parents[2] / "docs" / "devices.md").read_text(encoding="utf-8")
    for entry in LAUNCH_CLASSES.values():
        assert re.search(rf"`{entry.name}` \|[^|]*\| {entry.eager_us:g} \| {entry.replay_us:g} \|", text)
    assert all(f"`{family}`" in text for family in FAMILIES)


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
        ({"launch_class": "cuda_grap"}, "unknown launch class 'cuda_grap'; did you mean 'cuda_graph'"),
        ({"multiprocessors": 1.5}, "multiprocessors must be a whole number of at least 1, got 1.5"),
    ],
)
def test_a_bad_device_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    """Missing, misspelt and absurd figures are refused with the file and the key."""
    with pytest.raises(InputError, match=rf"^own\.yaml: .*{re.escape(message)}"):
        read_device({**OWN, **changes}, where="own.yaml")


def test_four_bit_floats_share_a_peak() -> None:
    """MXFP4 and NVFP4 differ in their scales only: both run at the device's FP4 peak."""
    device = load_device("B200")
    assert device.peak("nvfp4") == device.peak("mxfp4") == device.peak("fp4") == 9e15


@pytest.mark.parametrize("entry", LAUNCH_CLASSES.values(), ids=LAUNCH_CLASSES)
def test_launch_classes(entry: LaunchClass) -> None:
    """Replaying a recorded step never costs more than launching one by one, and each figure has its source."""
    assert 0 < entry.replay_us <= entry.eager_us < 100
    assert entry.source
    assert launch_class(entry.name) is entry


def test_the_default_launch_class() -> None:
    """A device that states nothing is launched as a CUDA device is."""
    assert read_device(OWN, where="own.yaml").launch.name == "cuda_graph"
    assert load_device("TPU-v6e").launch.name == "xla"


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
