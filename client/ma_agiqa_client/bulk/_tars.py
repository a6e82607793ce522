"""WebDataset tar files: consecutive files whose names agree up to the first dot are one sample."""

import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from ma_agiqa_client._wire.pictures import EXTENSIONS, OTHER_EXTENSIONS
from ma_agiqa_client.bulk._store import JobError, locate

KEY = "__key__"
"""Column with the names of the samples, as WebDataset calls it."""

TAR = ".tar"


def read_tar(name: str, columns: Sequence[str]) -> Any:
    """Read a tar file as a `pyarrow.Table`.

    Args:
        name: path or URI of the file.
        columns: the column of the images, and others. If the first is the ending of an image's
            name, such as `jpg` or `left.png`, only files with it are images.

    Returns:
        One row per sample that has an image: the first of the columns has the images' bytes, KEY
        the samples' names, and the others the samples' files of that ending as text, null where
        there is none.

    Raises:
        JobError: a sample has several images.
        tarfile.TarError: the file is damaged, or ends before its end.
    """
    image, *others = columns
    rows: list[dict[str, Any]] = []
    for key, files in _samples(name, others):
        images = _images(image, files)
        if len(images) > 1:
            raise JobError(
                f"The sample {key} of {name} has several images, {', '.join(images)}: name the "
                f"ending of those to score, such as --column {images[0]}."
            )
        if images:
            texts = {other: _text(files.get(other)) for other in others}
            rows.append({image: files[images[0]], KEY: key, **texts})
    found = {image: pa.array([row[image] for row in rows], pa.large_binary())}
    for column in (KEY, *others):
        found[column] = pa.array([row[column] for row in rows], pa.string())
    return pa.table(found)


def _samples(name: str, others: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample's name, and its images and other files that are asked for, by their ending."""
    filesystem, path = locate(name)
    with (
        filesystem.open_input_stream(path) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        key, files = "", dict[str, bytes]()
        for member in archive:
            folder, slash, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            if (member.islnk() or member.issym()) and _is_image(ending):
                raise JobError(
                    f"{name} has {member.name!r} as a link. Write the files themselves into it, "
                    "such as with tar --dereference --hard-dereference."
                )
            if not member.isfile() or not stem:
                continue
            sample = _readable(folder + slash + stem)
            if key != sample:
                if key:
                    yield key, files
                key, files = sample, {}
            if _is_image(ending) or ending in others:
                files[ending] = archive.extractfile(member).read()  # type: ignore[union-attr]
        if filesystem.get_file_info(path).size < archive.offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends without a tar file's last block: a part is missing")
        if key:
            yield key, files


def _images(column: str, files: dict[str, bytes]) -> list[str]:
    """The endings of a sample's images."""
    if _is_image(column):
        return [ending for ending in files if ending == column]
    images = [ending for ending in files if _is_image(ending)]
    return [ending for ending in images if f".{ending}".lower() in EXTENSIONS] or images


def _is_image(ending: str) -> bool:
    return f".{ending}".lower().endswith((*EXTENSIONS, *OTHER_EXTENSIONS))


def _readable(name: str) -> str:
    """A name as text: bytes that are no UTF-8, which tarfile gives as surrogates, as \\x..."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
