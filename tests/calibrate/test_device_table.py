"""The format of a device's profile: what is written is read, and what is wrong is refused with its place."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servetwin.calibrate.device_profile import Measurement, Point, device_points, read_device_profile
from servetwin.calibrate.device_profile.header import HEADER, Header
from servetwin.calibrate.device_profile.sampling import Statistics
from servetwin.calibrate.device_profile.summary import summary_rows
from servetwin.calibrate.device_profile.table import append_measurement, append_not_measured, drop_cut_lines
from servetwin.core.errors import InputError

HEADER_ROW = Header("NVIDIA L4", "cuda", "L4", {"torch": "2.13.0", "driver": "570.1", "power_limit_w": 72.0})
GEMM = Point("gemm", ("bf16", 4096, 4096, 4096))
POWER = Point("power", ("idle",))


def write(folder: Path, *rows: Measurement) -> Path:
    """Write a profile with these rows."""
    HEADER_ROW.write(folder)
    for row in rows:
        append_measurement(folder, row)
    return folder


def row(point: Point, median: float = 2.5, kernel: str = "torch.mm") -> Measurement:
    """Return a row of a point."""
    return Measurement(point, Statistics(median, median * 0.5, median * 2, 7), kernel)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Header, rows and points that could not be measured come back as they were."""
    rows = [row(GEMM, kernel="mm, with a comma"), row(POWER, 12.5), row(Point("gemm", ("fp8", 1, 2, 3)))]
    write(tmp_path, *rows)
    append_not_measured(tmp_path, Point("copy", ("host_to_device", 4096)), "no pinned\nmemory, here")
    profile = read_device_profile(tmp_path)
    assert profile.header == HEADER_ROW
    assert profile.rows == {"gemm": [rows[0], rows[2]], "power": [rows[1]]}
    assert profile.not_measured == {Point("copy", ("host_to_device", 4096)): "no pinned memory, here"}
    assert profile.done() == {GEMM, POWER, rows[2].point, Point("copy", ("host_to_device", 4096))}


def test_the_columns_say_what_they_hold(tmp_path: Path) -> None:
    """The first line names keys and units; times are microseconds, power is watts."""
    write(tmp_path, row(GEMM), row(POWER))
    first = (tmp_path / "gemm.csv").read_text(encoding="utf-8").splitlines()[0]
    assert first == "format,m,n,k,median_us,p10_us,p90_us,samples,kernel"
    assert (tmp_path / "power.csv").read_text(encoding="utf-8").startswith("state,median_w,p10_w,p90_w,samples,kernel")


def test_a_cut_line_is_left_out_and_then_removed(tmp_path: Path) -> None:
    """A stop in the middle of a line loses that line and nothing else."""
    write(tmp_path, row(GEMM))
    with (tmp_path / "gemm.csv").open("a", encoding="utf-8") as file:
        file.write("bf16,1,40")
    assert read_device_profile(tmp_path).rows == {"gemm": [row(GEMM)]}
    drop_cut_lines(tmp_path)
    append_measurement(tmp_path, row(Point("gemm", ("bf16", 1, 4096, 4096))))
    assert len(read_device_profile(tmp_path).rows["gemm"]) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bf16,1,2,3,1,1,1,7", r"gemm\.csv:3: has 8 values for 9 columns"),
        ("bf61,1,2,3,1,1,1,7,k", r"gemm\.csv:3: unknown format 'bf61'; did you mean 'bf16'"),
        ("bf16,1.5,2,3,1,1,1,7,k", r"gemm\.csv:3: m must be a whole number of at least 0, got '1\.5'"),
        ("bf16,1,2,3,nan,1,1,7,k", r"gemm\.csv:3: median_us must be a number above 0, got 'nan'"),
        ("bf16,1,2,3,0,0,0,7,k", r"gemm\.csv:3: median_us must be a number above 0, got '0'"),
        ("bf16,1,2,3,5,6,7,7,k", r"gemm\.csv:3: the median 5 does not lie between p10 6 and p90 7"),
        ("bf16,4096,4096,4096,1,1,1,7,k", r"gemm\.csv:3: stands twice: gemm format=bf16 m=4096"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    """A value that cannot be is an error that names the file and the line."""
    write(tmp_path, row(GEMM))
    with (tmp_path / "gemm.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=message):
        read_device_profile(tmp_path)


def test_wrong_columns(tmp_path: Path) -> None:
    """A table with other columns is refused, with those that it should have."""
    write(tmp_path)
    (tmp_path / "copy.csv").write_text("direction,mib,median_us\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"copy\.csv:1: columns must be direction,bytes,median_us"):
        read_device_profile(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: 2\ndevice: X\ndevice_type: cpu\n", "format 2 is not one that this version reads"),
        ("format: 1\ndevice_type: cpu\n", "device is missing"),
        ("format: 1\ndevice: X\ndevice_type: tpu\n", "device_type must be cuda or cpu, got 'tpu'"),
        ("format: 1\ndevice: X\ndevice_type: cpu\nconditions: {a: [1]}\n", "a must be a number or a text"),
        ("format: 1\ndevice: X\ndevice_type: cpu\ncondition: {}\n", "unknown key 'condition'"),
    ],
)
def test_a_wrong_header(tmp_path: Path, text: str, message: str) -> None:
    """A header of another version, or with something missing or unknown, is refused."""
    (tmp_path / HEADER).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_device_profile(tmp_path)


def test_a_folder_without_a_profile(tmp_path: Path) -> None:
    """A folder that holds no profile says so."""
    with pytest.raises(InputError, match="not a device's profile"):
        read_device_profile(tmp_path)


points = st.sampled_from(device_points("cuda", formats=["fp32", "tf32", "bf16", "fp8", "int8"]))


@given(st.dictionaries(points, st.floats(1e-3, 1e9), max_size=20))
def test_any_rows_survive(tmp_path_factory: pytest.TempPathFactory, times: dict[Point, float]) -> None:
    """Whatever was measured comes back, six digits deep."""
    folder = write(tmp_path_factory.mktemp("profile"), *(row(point, time) for point, time in times.items()))
    found = {one.point: one.statistics.median for rows in read_device_profile(folder).rows.values() for one in rows}
    assert found == {point: pytest.approx(time, rel=1e-5) for point, time in times.items()}


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_read_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever stands in a table, reading it gives rows or an InputError."""
    folder = write(tmp_path_factory.mktemp("profile"), row(GEMM))
    with (folder / "gemm.csv").open("a", encoding="utf-8", newline="") as file:
        file.write(text + "\n")
    with suppress(InputError):
        assert read_device_profile(folder).rows["gemm"]


def test_the_summary_knows_the_data_sheet(tmp_path: Path) -> None:
    """The best rate per operator stands beside its share of what the catalogue states for the device."""
    small = Point("copy", ("device_to_device", 4096))
    large = Point("copy", ("device_to_device", 2**28))
    write(tmp_path, row(GEMM, 2 * 4096**3 / 60.5e12 * 1e6), row(small, 1e-3), row(large, 2**29 / 240e9 * 1e6))
    rows = {one["operator"]: one for one in summary_rows(read_device_profile(tmp_path))}
    assert rows["gemm"]["best"] == pytest.approx(60.5, rel=1e-4)
    assert rows["gemm"]["share"] == pytest.approx(0.5, rel=1e-4)
    assert rows["copy"]["best"] == pytest.approx(240, rel=1e-4)
    assert rows["copy"]["share"] == pytest.approx(0.8, rel=1e-4)
