"""The step `preprocess` without a server: what it counts when threads meet or an answer fails."""

import importlib.util
import sys
from pathlib import Path
from unittest import mock

import pytest

FILE = Path(__file__).resolve().parents[2] / "model_repository" / "preprocess" / "1" / "model.py"


@pytest.fixture
def preprocess(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", mock.Mock())
    spec = importlib.util.spec_from_file_location("preprocess_model", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_threads_note_once_that_a_request_leaves_the_backlog(preprocess):
    model = mock.Mock()
    request = preprocess._Request(model, mock.Mock(), 0.0)

    def meanwhile(passed_on: bool) -> None:
        model.leave_backlog.side_effect = None
        request._leave_backlog(passed_on)  # as another thread does

    model.leave_backlog.side_effect = meanwhile
    request._leave_backlog(passed_on=False)
    assert model.leave_backlog.call_count == 1


def test_an_answer_that_cannot_be_sent_is_logged_and_no_longer_in_flight(preprocess):
    model, error = mock.Mock(), RuntimeError("No space left in /dev/shm")
    request = preprocess._Request(model, mock.Mock(), 0.0)
    request._sender.send.side_effect = error
    request._answer(mock.Mock())
    model.note_in_flight.assert_called_once_with(-1)
    model.replies.failure.assert_called_once_with(error, preprocess._FAILED)
