"""Memory that computes: documented figures, and LLMServingSim's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.core.errors import InputError
from servetwin.hardware.pim import load_pim_device, pim_device_names, read_pim_device
from servetwin.hardware.pim_ini import read_pim_ini

DOCUMENTED = {
    # internal bandwidth and peak of one device, and how much more than its pins deliver, as published
    "HBM-PIM": (1228.8e9, 1.2288e12, 4.0),
    "GDDR6-AiM": (1024e9, 1.024e12, 16.0),
    "LPDDR5-PIM": (409.6e9, 0.4096e12, 8.0),
    "CXL-PNM": (1092.3e9, 4.096e12, 1.0),
}

INI = """[dram_structure]
bankgroups = 2   # a comment
banks_per_group = 4
rows = 65536
columns = 1024
device_width = 16
BL = 8
[timing]
tCK = 0.63
CL = 22
tRCD = 22
tRP = 22
tCCD_S = 4
tCCD_L = 8 ; another
[system]
channel_size = 8192
bus_width = 64
[other]
data_rate = 3200
idle_power = 623 # mW
peak_power = 3803
"""


def test_every_class_has_its_published_figures() -> None:
    """Banks, accesses and multipliers multiply to the bandwidth, the peak and the gain that makers print."""
    assert set(DOCUMENTED) == set(pim_device_names())
    for name, (bandwidth, peak, gain) in DOCUMENTED.items():
        device = load_pim_device(name)
        assert device.internal_bytes_per_s == pytest.approx(bandwidth, rel=1e-3)
        assert device.flops_per_channel * device.channels == pytest.approx(peak, rel=1e-3)
        assert device.channel_bytes_per_s / device.external_bytes_per_s == pytest.approx(gain, rel=1e-3)


def test_every_figure_of_every_class_has_a_source() -> None:
    """What stands in a file says where it comes from, estimates included."""
    for name in pim_device_names():
        device = load_pim_device(name)
        for key in ("capacity_gib", "channels", "banks", "access_ns", "gflops_per_channel", "row_bytes", "energy"):
            assert device.sources[key], (name, key)


def test_an_ini_file_gives_what_llmservingsim_works_out(tmp_path: Path) -> None:
    """Channel size, bandwidth and latency by the rules of FORMATS, section 3.3, of a DDR4 channel."""
    path = tmp_path / "DDR4.ini"
    path.write_text(INI, encoding="utf-8")
    ini = read_pim_ini(path)
    assert (ini.channel_gb, ini.bandwidth_gb_per_s, ini.num_channels(512)) == (8.0, 25.6, 64)
    assert ini.latency_ns == pytest.approx(13.86)
    device = ini.device(512)
    assert (device.channels, device.banks, device.capacity_bytes) == (64, 8, 512 * 2**30)
    assert device.channel_bytes_per_s == pytest.approx(8 * 64 / 5.04 * 1e9)
    assert load_pim_device("DDR4.ini", relative_to=tmp_path).channels == 1


@pytest.mark.measured
def test_the_given_ini_files_are_read(reference: Path) -> None:
    """All four of them, with the figures that FORMATS names."""
    folder = reference / "llmservingsim" / "configs" / "pim"
    found = {path.stem: read_pim_ini(path) for path in folder.glob("*.ini")}
    figures = {name: (ini.channel_gb, round(ini.bandwidth_gb_per_s, 2)) for name, ini in found.items()}
    assert figures == {
        "DDR4_8GB_3200_pim": (8.0, 25.6),
        "HBM2_1GB_2000_pim": (1.0, 32.0),
        "LPDDR4X_2GB_4266_pim": (2.0, 8.53),
        "LPDDR5_2GB_6400_pim": (2.0, 12.8),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (INI.replace("tCK = 0.63", "tCK = fast"), "tCK must be a number above 0, found 'fast'"),
        (INI.replace("rows = 65536", ""), "rows is missing"),
        (INI.replace("bus_width = 64", "bus_width = 8"), "bus_width is less than device_width"),
        (INI + "nonsense\n", "'key = value' is needed, found 'nonsense'"),
    ],
)
def test_wrong_ini_files_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    """With the file's name."""
    path = tmp_path / "x.ini"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        read_pim_ini(path)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Nothing but an InputError comes out of a file that is none."""
    path = tmp_path_factory.mktemp("ini") / "x.ini"
    path.write_bytes(text.encode("utf-8", "replace"))
    with pytest.raises(InputError):
        read_pim_ini(path)


def test_unknown_and_impossible_devices_are_refused() -> None:
    """A misspelt name with the nearest match; more parallel banks than banks; idle above peak power."""
    with pytest.raises(InputError, match="did you mean 'HBM-PIM'"):
        load_pim_device("HBM-PIN")
    data = {
        "name": "x", "channels": 1, "banks": 4, "parallel_banks": 8, "access_bytes": 32, "access_ns": 1,
        "gflops_per_channel": 1, "row_bytes": 1024, "row_switch_ns": 1, "command_ns": 1, "external_gb_per_s": 1,
        "capacity_gib": 1, "link_gb_per_s": 1, "link_latency_ns": 1,
        "energy": {"access_pj_per_bit": 1, "external_pj_per_bit": 1, "operation_pj": 1, "idle_w": 5, "peak_w": 3},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"parallel_banks \(8\) is more than banks \(4\)"):
        read_pim_device(data, where="x.yaml")
    with pytest.raises(InputError, match=r"idle_w \(5\) is above peak_w \(3\)"):
        read_pim_device({**data, "parallel_banks": 4}, where="x.yaml")
