"""What a running server says about the model it serves."""

from dataclasses import dataclass

__all__ = ["ServedModel"]


@dataclass(frozen=True)
class ServedModel:
    """The parameters of the ensemble's configuration that every start should show.

    Attributes:
        name: name of the model, for people.
        note: what users of its scores should know; may be empty.
    """

    name: str
    note: str
