"""Footers that lie, and columns of types that run code: refused before a type is built or a page is decoded."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mapjob.config.input import Input
from mapjob.corpus.files import find_files
from mapjob.corpus.footers import read_footer
from mapjob.corpus.reader import read_rows
from mapjob.errors import InputError
from tests.bad_inputs.conftest import pairs, write
from tests.fakes import config_tree

TRAPS: list[bytes] = []


class Trap(pa.ExtensionType):
    """A type as careless libraries register them: what the file says of it is trusted, here only noted."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "tests.trap")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"os.system"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "Trap":
        TRAPS.append(serialized)
        return cls()


@pytest.fixture
def trap():
    pa.register_extension_type(Trap())
    TRAPS.clear()
    yield pa.ExtensionArray.from_storage(Trap(), pa.array(range(3)))
    pa.unregister_extension_type("tests.trap")


def nested(array: pa.Array, how: str) -> pa.Array:
    ones = pa.array(range(len(array) + 1), pa.int32())
    if how == "list":
        return pa.ListArray.from_arrays(ones, array)
    if how == "struct":
        return pa.StructArray.from_arrays([array], ["inside"])
    if how == "list of structs":
        return pa.ListArray.from_arrays(ones, pa.StructArray.from_arrays([array], ["inside"]))
    return array


@pytest.mark.parametrize("how", ["column", "list", "struct", "list of structs"])
@pytest.mark.parametrize("name", ["x", "xy", "xyz", "xyzw"])
def test_an_extension_type_is_refused_before_its_code_runs(tmp_path, trap, how, name):
    """The length of names before it shifts where its name stands in the footer's base64."""
    folder = write(tmp_path / "corpus", pairs(3).append_column(name, nested(trap, how)))
    TRAPS.clear()
    for read in (
        lambda: find_files(Input(path=str(folder)), None),
        lambda: read_rows(str(folder / "part-00000.parquet"), 0, 3),
    ):
        with pytest.raises(InputError, match=r"'tests\.trap'") as caught:
            read()
        assert f"'{name}" in caught.value.what
        assert caught.value.exit_code == 3
        assert TRAPS == []
    pq.read_metadata(folder / "part-00000.parquet")
    assert TRAPS, "what Arrow itself does with this file"


@pytest.mark.parametrize("kind", ["tensor", "ragged tensor", "object", "canonical tensor"])
def test_types_of_ray_and_other_tensors(tmp_path, kind):
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray
    from ray.data._internal.tensor_extensions.arrow import ArrowTensorArray

    array = {
        "tensor": lambda: ArrowTensorArray.from_numpy(np.zeros((3, 2, 2))),
        "ragged tensor": lambda: ArrowTensorArray.from_numpy([np.zeros((i + 1, 2)) for i in range(3)]),
        "object": lambda: ArrowPythonObjectArray.from_objects([{1}, {2}, {3}]),
        "canonical tensor": lambda: pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((3, 2, 2))),
    }[kind]()
    folder = write(tmp_path / "corpus", pairs(3).append_column("x", array))
    with pytest.raises(InputError, match=r"extension type '(ray\.data|arrow\.fixed)"):
        find_files(Input(path=str(folder)), None)


def test_the_command_line_refuses_it_in_three_lines(tmp_path, trap, models):
    write(tmp_path / "corpus", pairs(3).append_column("x", trap))
    tree = config_tree(tmp_path / "corpus", tmp_path / "out", models["policy"], models["reward"])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "mapjob", "run", str(tmp_path / "run.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 3
    assert "tests.trap" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_large_footer_is_read_whole(tmp_path):
    table = pairs(3)
    for number in range(900):
        table = table.append_column(f"a column with a long name, number {number}", pa.array([1, 2, 3]))
    folder = write(tmp_path / "corpus", table)
    file = folder / "part-00000.parquet"
    assert int.from_bytes(file.read_bytes()[-8:-4], "little") > 1 << 17
    with file.open("rb") as handle:
        assert read_footer(handle, "here").num_columns == 903
    assert read_rows(str(file), 1, 3).equals(table.slice(1))


def test_a_column_name_that_is_no_text(tmp_path):
    file = write(tmp_path / "corpus", pairs(3).append_column("zzzz", pa.array([1, 2, 3]))) / "part-00000.parquet"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"zzzz", b"\xff\xfe\xfd\xfc"))
    with pytest.raises(InputError, match="not a readable Parquet file") as caught:
        find_files(Input(path=str(file)), None)
    assert caught.value.where == str(file)


def test_row_counts_that_contradict_each_other(tmp_path):
    """A wrong count could make a plan of 10**17 units, or leave rows out."""
    file = write(tmp_path / "corpus", pairs(3_001), row_group_size=3_000) / "part-00000.parquet"
    assert pq.read_metadata(file).num_rows == 3_001
    data, footer = file.read_bytes(), int.from_bytes(file.read_bytes()[-8:-4], "little")
    zigzag = bytes([0x80 | 6002 & 0x7F, 6002 >> 7])  # 3001 as the compact protocol writes it
    found = data.index(zigzag, len(data) - footer)
    file.write_bytes(data[:found] + bytes([zigzag[0], zigzag[1] ^ 0x40]) + data[found + 2 :])
    with pytest.raises(InputError, match="its footer says"):
        find_files(Input(path=str(file)), None)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1PAR1", b"\xff" * 8 + b"PAR1", bytes(8) + b"PAR1", b"PARE" * 5])
def test_what_is_hardly_a_file(data):
    with pytest.raises((pa.ArrowException, OSError)):
        read_footer(io.BytesIO(data), "here")


def test_a_footer_that_changed_between_plan_and_read_is_checked_again(tmp_path, trap):
    file: Path = write(tmp_path / "corpus", pairs(3)) / "part-00000.parquet"
    find_files(Input(path=str(file)), None)
    pq.write_table(pairs(3).append_column("x", trap), file)
    TRAPS.clear()
    with pytest.raises(InputError, match=r"tests\.trap"):
        read_rows(str(file), 0, 3, ["prompt"])
    assert TRAPS == []
