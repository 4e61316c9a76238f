"""Reading and writing profiles: errors name the file and the line, and nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_helpers import moe_profile, profile

from servetwin.core.errors import InputError
from servetwin.step.host import HostOverhead
from servetwin.step.profile import load_profile, write_native
from servetwin.step.profile.csv_table import Column, read_table
from servetwin.step.profile.tables import Profile

COLUMNS = (Column("layer", "text"), Column("tokens", "count", 1), Column("time_us", "us"))
NUMBERS = (Column("tokens", "count", 1), Column("time_us", "us"))
GOOD = [("a", "1", "2.5"), ("a", "2", "3"), ("b", "1", "0.0001")]


def write(path: Path, rows: list[tuple[str, ...]], header: str = "layer,tokens,time_us") -> Path:
    """Write a table and return its path."""
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a written profile with one degree."""
    write_native([profile()], tmp_path / "profile")
    return tmp_path / "profile"


def test_a_plain_table(tmp_path: Path) -> None:
    """Columns come in any order, times in whole nanoseconds, at least one."""
    path = write(tmp_path / "t.csv", [(time, layer, tokens) for layer, tokens, time in GOOD], "time_us,layer,tokens")
    table = read_table(path, COLUMNS)
    assert table["layer"].tolist() == ["a", "a", "b"]
    assert table["tokens"].tolist() == [1, 2, 1]
    assert table["time_us"].tolist() == [2500, 3000, 1]


WRONG = {
    "tokens": ["0", "-1", "1.5", "nan", "inf", "", "many", "1e99"],
    "time_us": ["-0.5", "nan", "-inf", "", "fast", "1e300"],
    "layer": [""],
}


@given(st.data(), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_the_line_of_a_wrong_value_is_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, at: int
) -> None:
    """Wherever one wrong value stands, the error has the file, the line, the column and the value."""
    column = data.draw(st.sampled_from(sorted(WRONG)))
    value = data.draw(st.sampled_from(WRONG[column]))
    rows = [["layer", str(i + 1), "2.5"] for i in range(301)]
    rows[at][["layer", "tokens", "time_us"].index(column)] = value
    path = write(tmp_path_factory.mktemp("csv") / "t.csv", [tuple(row) for row in rows])
    with pytest.raises(InputError) as caught:
        read_table(path, COLUMNS)
    assert str(caught.value).startswith(f"{path}:{at + 2}: {column} is ")
    assert repr(value) in str(caught.value) or value == ""


@given(st.text(alphabet='0123456789.,-+"eE \n\rna#x', max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_table_or_an_input_error(tmp_path_factory: pytest.TempPathFactory, body: str) -> None:
    """Whatever stands below the header, the reader returns positive numbers or raises an InputError."""
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_text(f"tokens,time_us\n{body}", newline="")
    try:
        table = read_table(path, NUMBERS)
    except InputError as error:
        named = str(path) in str(error)
    else:
        named = len(table) >= 1
        assert (table["tokens"] >= 1).all()
        assert (table["time_us"] >= 1).all()
        assert np.isfinite(table["time_us"]).all()
    assert named


@given(st.lists(st.tuples(st.integers(1, 2**31), st.floats(0, 1e9)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_fast_and_careful_reading_agree(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float]]
) -> None:
    """A quoted table, which the fast reader leaves to the careful one, gives the same arrays."""
    base = tmp_path_factory.getbasetemp()
    plain = write(base / "plain.csv", [(str(count), repr(time)) for count, time in rows], "tokens,time_us")
    quoted = write(base / "quoted.csv", [(f'"{count}"', f'"{time!r}"') for count, time in rows], "tokens,time_us")
    first, second = read_table(plain, NUMBERS), read_table(quoted, NUMBERS)
    for column in NUMBERS:
        assert np.array_equal(first[column.name], second[column.name])


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("layer,token,time_us", GOOD, r"t\.csv:1: column 'tokens' is missing; the file must have layer, tokens"),
        ("layer,tokens,time_us,time_us", GOOD, r"t\.csv:1: column 'time_us' is there twice"),
        ("layer,tokens,time_us,note", GOOD, r"t\.csv:1: unknown column 'note'"),
        ("layer,tokens,time_us", [*GOOD, ("a", "3")], r"t\.csv:5: 2 values in a table of 3 columns"),
        ("layer,tokens,time_us", [], r"t\.csv: no rows below the header"),
    ],
)  # fmt: skip
def test_wrong_tables(tmp_path: Path, header: str, rows: list[tuple[str, ...]], message: str) -> None:
    """Missing, doubled and unknown columns, short rows and empty tables are errors that say so."""
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path / "t.csv", rows, header), COLUMNS)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(InputError, match=r"t\.csv: no such file"):
        read_table(tmp_path / "t.csv", COLUMNS)


def equal(first: Profile, second: Profile) -> bool:
    """Return whether two profiles hold the same figures, apart from where they came from and the fitted skew."""
    curves = [(a[name], b[name]) for a, b in ((first.dense, second.dense), (first.per_sequence, second.per_sequence))
              for name in a if a.keys() == b.keys()]  # fmt: skip
    pairs = [(a.counts, b.counts) for a, b in curves] + [(a.time_ns, b.time_ns) for a, b in curves]
    grids = [getattr(first.attention, name) for name in first.attention.__slots__]
    others = [getattr(second.attention, name) for name in second.attention.__slots__]
    for a, b in zip(grids, others, strict=True):
        if hasattr(a, "time_ns"):
            pairs += [(a.first, b.first), (a.second, b.second), (a.time_ns, b.time_ns)]
        else:
            pairs.append((a, b))
    facts = [(p.hardware, p.model, p.tensor_parallel_size, p.serial, p.token_padding, p.host, p.gaps_included,
              p.not_measured)
             for p in (first, second)]  # fmt: skip
    return len(curves) == len(first.dense) + len(first.per_sequence) and facts[0] == facts[1] and all(
        np.array_equal(a, b) for a, b in pairs
    )  # fmt: skip


@pytest.mark.parametrize("attention", ["joint", "additive"])
def test_written_and_read_again(tmp_path: Path, attention: str) -> None:
    """Every degree of a written profile is read back equal, for both kinds of attention tables."""
    first = [profile(ranks, attention, "cuda_graph", ranks) for ranks in (1, 2)]
    write_native(first, tmp_path / "p")
    for ranks in (1, 2):
        assert equal(load_profile(tmp_path / "p", ranks), first[ranks - 1])


@pytest.mark.parametrize("kind", ["block", "single"])
def test_experts_are_written_and_read_again(tmp_path: Path, kind: str) -> None:
    """A mixture of experts is read back equal, whether whole blocks or one expert were measured."""
    first = moe_profile(3, kind)
    write_native([first], tmp_path / "p")
    second = load_profile(tmp_path / "p")
    assert equal(second, first)
    assert isinstance(second.experts, type(first.experts))
    for name in first.experts.__slots__:
        ours, theirs = getattr(first.experts, name), getattr(second.experts, name)
        pairs = [(ours.counts, theirs.counts), (ours.time_ns, theirs.time_ns)] if kind == "single" else [(ours, theirs)]
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_experts_stand_in_place_of_an_mlp(tmp_path: Path) -> None:
    """Layers of a dense MLP beside experts, or two tables of experts, are errors that name them."""
    folder = tmp_path / "p"
    write_native([moe_profile()], folder)
    with (folder / "tp1" / "dense.csv").open("a") as file:
        file.write("down_proj,1,5.0\n")
    with pytest.raises(InputError, match=r"dense\.csv:\d+: layer down_proj beside experts"):
        load_profile(folder)
    write_native([moe_profile()], folder)
    write_native([moe_profile(kind="single")], tmp_path / "q")
    (tmp_path / "q" / "tp1" / "expert.csv").rename(folder / "tp1" / "expert.csv")
    with pytest.raises(InputError, match=r"both moe\.csv and expert\.csv"):
        load_profile(folder)


def test_a_missing_part_of_an_expert(tmp_path: Path) -> None:
    """One expert's table needs router, expert and activation."""
    write_native([moe_profile(kind="single")], tmp_path)
    path = tmp_path / "tp1" / "expert.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("router")))
    with pytest.raises(InputError, match=r"expert\.csv: no rows for layer router"):
        load_profile(tmp_path)


def test_host_and_layers_left_out_survive(tmp_path: Path) -> None:
    """Host overhead and the reasons for layers that were not measured are written and read."""
    full = profile()
    dense = {name: curve for name, curve in full.dense.items() if name != "act_fn"}
    first = Profile("h", "m", 1, dense, full.per_sequence, full.attention, serial=full.serial,
                    host=HostOverhead(5.0, 0.5), gaps_included=True, not_measured={"act_fn": "fused"})  # fmt: skip
    write_native([first], tmp_path / "p")
    assert equal(load_profile(tmp_path / "p"), first)


def replace(path: Path, old: str, new: str) -> None:
    """Replace text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_missing_layer(folder: Path) -> None:
    """A layer without rows is an error that names it and what the file has."""
    dense = folder / "tp1" / "dense.csv"
    kept = [line for line in dense.read_text().splitlines() if not line.startswith("o_proj,")]
    dense.write_text("\n".join(kept))
    with pytest.raises(InputError, match=r"dense\.csv: no rows for layer o_proj; the file has act_fn"):
        load_profile(folder)


def test_misspelt_layer(folder: Path) -> None:
    """A layer that does not exist is an error with its line and the nearest match."""
    replace(folder / "tp1" / "dense.csv", "o_proj,1,", "oproj,1,")
    with pytest.raises(InputError, match=r"dense\.csv:\d+: unknown layer 'oproj'; did you mean 'o_proj'\?"):
        load_profile(folder)


def test_duplicate_row(folder: Path) -> None:
    """Two rows for one key are an error that names both lines."""
    replace(folder / "tp1" / "attention.csv", "\n0,0,1,128,", "\n0,0,1,16,")
    with pytest.raises(
        InputError, match=r"attention\.csv:3: a second row for prefill_chunk 0, .*the first is in line 2"
    ):
        load_profile(folder)


def test_incomplete_grid(tmp_path: Path) -> None:
    """A table over two axes that lacks a pair is an error that names the pair."""
    write_native([profile(0, "additive")], tmp_path)
    path = tmp_path / "tp1" / "attention_decode.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("7,128,")))
    with pytest.raises(InputError, match=r"no row for num_decodes 7, kv_decode 128"):
        load_profile(tmp_path)


def test_manifest_errors(folder: Path) -> None:
    """Unknown keys, formats, paddings and layers in profile.yaml are errors that name the key."""
    manifest = folder / "profile.yaml"
    text = manifest.read_text()
    for old, new, message in (
        ("token_padding: none", "token_padding: some", r"token_padding must be one of none, cuda_graph, power_of_two"),
        ("format: 1", "format: 2", r"format must be 1"),
        ("hardware:", "hardwear:", r"hardware"),
        ("format: 1", "format: 1\nnot_measured: {actfn: fused}", r"unknown layer 'actfn'; did you mean 'act_fn'"),
        ("format: 1", "format: 1\nhost: {per_step_us: -1}", r"per_step_us"),
    ):
        manifest.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=message):
            load_profile(folder)
    manifest.write_text(text)
    load_profile(folder)


def test_one_kind_of_attention(folder: Path) -> None:
    """A degree has joint or additive tables, not both and not neither."""
    joint = folder / "tp1" / "attention.csv"
    (folder / "tp1" / "attention_decode.csv").write_text(joint.read_text())
    with pytest.raises(InputError, match=r"needs either attention\.csv, or attention_prefill\.csv and"):
        load_profile(folder)
    (folder / "tp1" / "attention_decode.csv").unlink()
    joint.unlink()
    with pytest.raises(InputError, match=r"needs either attention\.csv"):
        load_profile(folder)


def test_missing_degree(folder: Path) -> None:
    """A tensor-parallel degree that is not there is an error that names those that are."""
    with pytest.raises(InputError, match=r"not profiled at tensor_parallel_size 4; degrees that exist: 1"):
        load_profile(folder, 4)


def test_a_folder_without_a_profile(folder: Path) -> None:
    """A folder above several profiles names them; above one it stands for it."""
    assert load_profile(folder.parent).source == str(folder)
    write_native([profile()], folder.parent / "other")
    with pytest.raises(InputError, match=r"profiles one level below: other, profile"):
        load_profile(folder.parent)
    with pytest.raises(InputError, match=r"no such folder; folders beside it: other, profile"):
        load_profile(folder.parent / "profil")


def test_profiles_that_do_not_belong_together(tmp_path: Path) -> None:
    """Degrees of different padding are not written into one folder."""
    with pytest.raises(InputError, match="must have the same"):
        write_native([profile(), profile(padding="cuda_graph", ranks=2)], tmp_path)
