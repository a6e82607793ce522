"""What importing the package gives, and what it must not drag in."""

import subprocess
import sys

import ma_agiqa_client


def test_the_public_names():
    assert ma_agiqa_client.__all__ == [
        "AnswerPart",
        "AsyncScorer",
        "AsyncTransport",
        "AuthenticationError",
        "CannotExplainError",
        "ClientError",
        "DeadlineExceededError",
        "Gate",
        "InvalidImageError",
        "InvalidQuestionError",
        "ModelCard",
        "RequestCancelledError",
        "Retry",
        "Score",
        "Scorer",
        "ServerError",
        "ServerUnavailableError",
        "SharedMemory",
        "Tls",
        "Transport",
        "WrongModelError",
    ]
    assert all(hasattr(ma_agiqa_client, name) for name in ma_agiqa_client.__all__)


def test_every_error_is_a_client_error():
    errors = [getattr(ma_agiqa_client, name) for name in ma_agiqa_client.__all__ if "Error" in name]
    assert len(errors) == 10
    assert all(issubclass(error, ma_agiqa_client.ClientError) for error in errors)


def test_the_import_is_light():
    heavy = ("torch", "transformers", "timm", "cv2", "scipy", "pandas", "ma_agiqa", "click", "rich")
    heavy += ("opentelemetry", "matplotlib", "nicegui", "ray", "pyarrow", "urllib.request")
    code = f"import sys, ma_agiqa_client; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
