"""The columns of a job: those with images, those that are copied, and those of the scores."""

from collections.abc import Sequence
from typing import Any

NUMBERS = ("mos", "normalized", "percentile", "deviation", "familiarity")
ENDS = ("low", "high")
GATE = ("semantic", "coherence", "quality")
RESULTS = (
    *NUMBERS,
    *(f"interval_{name}" for name in ENDS),
    *(f"gate_{name}" for name in GATE),
    *("model", "error", "error_kind"),
)


def name_conflict(columns: Sequence[str]) -> str | None:
    """Return what is wrong if a column of the input has the name of a column of the scores."""
    taken = [name for name in columns if name in RESULTS]
    if not taken:
        return None
    return (
        f"The column {taken[0]} of the input has the name of a column of the scores "
        f"({', '.join(RESULTS)}), which would replace it. Rename it in the input, or leave it out."
    )


def holds_images(kind: Any) -> bool:
    """Return whether a column's type is text (paths, URIs), bytes, or both in a struct.

    The library `datasets` writes images as a struct of `bytes` and `path`, one of which is null.
    """
    import pyarrow as pa

    kind = value_type(kind)
    if pa.types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        data, path = fields.get("bytes", pa.null()), fields.get("path", pa.null())
        known = is_bytes(data) or is_text(path)
        return known and all(
            check(found) or pa.types.is_null(found)
            for check, found in ((is_bytes, data), (is_text, path))
        )
    return is_text(kind) or is_bytes(kind) or bool(pa.types.is_null(kind))


def value_type(kind: Any) -> Any:
    """Return the type of a column's values, also if they are encoded as a dictionary."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: Any) -> bool:
    """Return whether a type is text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_bytes(kind: Any) -> bool:
    """Return whether a type is bytes."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def identification(column: Any) -> Any | None:
    """Return what of a column of images is copied to the scores: its text, never the bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = value_type(column.type)
    if is_bytes(kind):
        return None
    if not pa.types.is_struct(kind):
        return column
    return pc.struct_field(column, "path") if kind.get_field_index("path") >= 0 else None


def image_of(value: Any) -> Any:
    """Return the path, URI or bytes in a value of a column of images; None if there are none."""
    if not isinstance(value, dict):
        return value
    data = value.get("bytes")
    return value.get("path") if data is None else data
