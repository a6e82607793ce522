"""The naming rules as functions; test_pytorch_backend.py has them in the real server."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[3] / "deploy" / "embedded" / "pytorch_backend" / "naming.py"


@pytest.fixture(scope="module")
def naming():
    spec = importlib.util.spec_from_file_location("pytorch_backend_naming", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "names", "positions"),
    [
        (["a", "b"], ["b", "a"], [1, 0]),
        (["a", "b"], ["X__1", "X__"], [1, 0]),  # no digits mean 0
        (["a", "b"], ["first", "second"], [0, 1]),
        (["a", "b"], ["b", "other"], [0, 1]),  # one unknown name moves all of them to the next rule
        (["a", "b"], ["X__1", "b"], [0, 1]),
        (["a", "b"], ["A__1__0", "X__-1"], [0, 1]),  # neither is an index
        (["x__1", "x__0"], ["x__1", "x__0"], [0, 1]),  # arguments first
        (["a", "b"], ["X__0", "Y__0"], "expected each of 0 to 1 once"),
        (["a", "b"], ["X__0", "Y__2"], "expected each of 0 to 1 once"),
        (["a", "b"], ["a"], "expects 1 inputs, model provides 2"),
    ],
)
def test_inputs(naming, arguments, names, positions):
    if isinstance(positions, list):
        assert naming.input_positions(names, arguments) == positions
        return
    with pytest.raises(naming.NamingError, match=positions):
        naming.input_positions(names, arguments)


def test_outputs_may_be_fewer_and_shuffled(naming):
    assert naming.output_positions(["B__2", "A__0"], provided=3) == [2, 0]
    assert naming.output_positions(["B", "A__0"], provided=3) == [0, 1]
    for names, provided in ((["A__3"], 3), (["A", "B"], 1)):
        with pytest.raises(naming.NamingError, match=f"this model has {provided} outputs"):
            naming.output_positions(names, provided)


@pytest.mark.parametrize("data_type", ["TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_BF16"])
def test_data_types_without_a_tensor(naming, data_type):
    with pytest.raises(naming.NamingError, match=f"unsupported datatype {data_type} for input 'x'"):
        naming.check_data_types("input", [("y", "TYPE_FP32"), ("x", data_type)])
