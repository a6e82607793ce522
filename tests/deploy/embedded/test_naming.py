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
    ("name", "index"),
    [
        ("SCORE__0", 0),
        ("SCORE__12", 12),
        ("PATCH_SCORE__2", 2),
        ("SCORE", None),
        ("SCORE_1", None),
        ("SCORE__x", None),
        ("A__1__2", None),  # the text after the first "__" is "1__2"
        ("SCORE__", 0),  # atoi("") is 0
        ("SCORE__-1", None),
    ],
)
def test_named_index(naming, name, index):
    assert naming.named_index(name) == index


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (["b", "a"], [1, 0]),
        (["X__1", "X__0"], [1, 0]),
        (["first", "second"], [0, 1]),
        (["b", "other"], [0, 1]),  # one unknown name moves all of them to the next rule
        (["X__1", "b"], [0, 1]),
    ],
)
def test_input_positions(naming, names, positions):
    assert naming.input_positions(names, ["a", "b"]) == positions


def test_an_argument_named_like_an_index_is_an_argument(naming):
    assert naming.input_positions(["x__1", "x__0"], ["x__1", "x__0"]) == [0, 1]


@pytest.mark.parametrize("names", [["X__0", "Y__0"], ["X__0", "Y__2"]])
def test_input_indices_have_to_cover_the_arguments(naming, names):
    with pytest.raises(naming.NamingError, match="expected each of 0 to 1 once"):
        naming.input_positions(names, ["a", "b"])


def test_input_count_has_to_agree(naming):
    with pytest.raises(naming.NamingError, match="expects 1 inputs, model provides 2"):
        naming.input_positions(["a"], ["a", "b"])


def test_outputs_may_be_fewer_and_shuffled(naming):
    assert naming.output_positions(["B__2", "A__0"], provided=3) == [2, 0]
    assert naming.output_positions(["B", "A__0"], provided=3) == [0, 1]


@pytest.mark.parametrize(("names", "provided"), [(["A__3"], 3), (["A", "B"], 1)])
def test_an_output_that_does_not_exist(naming, names, provided):
    with pytest.raises(naming.NamingError, match=f"this model has {provided} outputs"):
        naming.output_positions(names, provided)


@pytest.mark.parametrize("data_type", ["TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_BF16"])
def test_data_types_without_a_tensor(naming, data_type):
    with pytest.raises(naming.NamingError, match=f"unsupported datatype {data_type} for input 'x'"):
        naming.check_data_types("input", [("y", "TYPE_FP32"), ("x", data_type)])
