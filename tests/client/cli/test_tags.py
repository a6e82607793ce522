"""The score in a file's metadata: pixels and all other bytes stay."""

import json
import os
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ma_agiqa_client.cli._tags import _NAMESPACE, Tags, _xmp, tagged
from ma_agiqa_client.cli.rows import Row
from support.example_card import CARD
from support.pictures import encoded, picture

FACTS = {"mos": 3.25, "model": 'a "model" & <more>', "checkpoint_sha256": "ab" * 32}
PICTURE = picture(3, 33, 47)
ALPHA = np.dstack([PICTURE, PICTURE[:, :, :1]])
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'dc:format="image/jpeg"/></rdf:RDF></x:xmpmeta>'
)
EXIF = Image.Exif()
EXIF[0x0112] = 6


def with_text() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat, steps: 20")
    return encoded(PICTURE, "PNG", pnginfo=text)


FILES = {
    "PNG": encoded(PICTURE, "PNG"),
    "PNG with text": with_text(),
    "PNG and more": encoded(PICTURE, "PNG") + b"after the end",
    "JPEG": encoded(PICTURE, "JPEG"),
    "JPEG with EXIF": encoded(PICTURE, "JPEG", exif=EXIF, progressive=True),
    "JPEG with XMP": encoded(PICTURE, "JPEG", xmp=XMP),
    "WebP": encoded(PICTURE, "WEBP"),
    "lossless WebP": encoded(PICTURE, "WEBP", lossless=True),
    "WebP with alpha": encoded(Image.fromarray(ALPHA), "WEBP", lossless=True),
    "WebP with EXIF": encoded(PICTURE, "WEBP", exif=EXIF),
    "WebP with XMP": encoded(PICTURE, "WEBP", xmp=XMP),
}


def read(tmp_path, data: bytes) -> tuple[np.ndarray, dict, bytes]:
    (tmp_path / "file").write_bytes(data)
    with Image.open(tmp_path / "file") as image:
        image.load()
        return np.asarray(image), dict(image.getexif()), image.info


@pytest.mark.parametrize("kind", FILES)
def test_the_score_is_there_and_all_else_stays(kind, tmp_path):
    data = FILES[kind]
    pixels, exif, info = read(tmp_path, data)
    twice = tagged(tagged(data, {**FACTS, "mos": 1}), FACTS)
    assert twice == tagged(data, FACTS)
    new_pixels, new_exif, new_info = read(tmp_path, twice)
    assert np.array_equal(pixels, new_pixels)
    assert exif == new_exif
    if kind.startswith("PNG"):
        assert json.loads(new_info.pop("ma_agiqa")) == FACTS
    else:
        packet = new_info["xmp"]
        inner = packet[packet.index(b"<x:xmpmeta") : packet.index(b"</x:xmpmeta>") + 12]
        ours = ElementTree.fromstring(inner)[0][-1].attrib
        found = {name.removeprefix(f"{{{_NAMESPACE}}}"): value for name, value in ours.items()}
        assert (found["mos"], found["model"]) == ("3.25", FACTS["model"])
        assert b"dc:format" in packet or "XMP" not in kind
        assert packet.count(_NAMESPACE.encode()) == 1
        info.pop("xmp", None)
        new_info.pop("xmp")
    assert new_info == info


OURS = b"urn:ma-agiqa:score:1"
REWRITTEN = {
    "of an earlier version": b'<rdf:Description rdf:about="" xmlns:ma_agiqa="%b"'
    b' ma_agiqa:mos="1"/>',
    "merged": b'<rdf:Description rdf:about="" xmlns:dc="d/" xmlns:ma_agiqa="%b/" dc:format="f"'
    b' ma_agiqa:mos="1" dc:source="a > b"/>',
    "elements": b"<rdf:Description rdf:about='' xmlns:ns1='%b/' xmlns:dc='d/'>\n"
    b" <ns1:mos>1</ns1:mos><dc:format>f</dc:format><ns1:model a='b'/></rdf:Description>",
    "elements alone": b"<rdf:Description\n rdf:about=''\n xmlns:ns1='%b/'>\n"
    b" <ns1:mos>1</ns1:mos>\n</rdf:Description>",
}


@pytest.mark.parametrize("kind", REWRITTEN)
def test_a_score_is_replaced_in_whatever_form_a_program_has_written_it(kind):
    others = REWRITTEN[kind] % OURS
    packet = XMP.replace(b"</rdf:RDF>", others + b"</rdf:RDF>")
    new = _xmp(packet, FACTS)
    descriptions = list(ElementTree.fromstring(new)[0])
    attributes = {name: value for one in descriptions for name, value in one.attrib.items()}
    elements = {one.tag: one.text for description in descriptions for one in description}
    assert [n for n in (*attributes, *elements) if OURS.decode() in n] == [
        f"{{{_NAMESPACE}}}{name}" for name in FACTS
    ]
    assert attributes[f"{{{_NAMESPACE}}}mos"] == "3.25"
    assert len(descriptions) == 2 + (b"dc" in others)  # none is left empty
    assert attributes.get("{d/}source", "a > b") == "a > b"
    assert {**attributes, **elements}.get("{d/}format", "f") == "f"
    assert new.count(b"format") == packet.count(b"format")


@pytest.mark.parametrize("data", [b"", b"GIF89a...", b"\xff\xd8\xff\xe1", FILES["PNG"][:20]])
def test_other_and_damaged_files_are_refused(data):
    with pytest.raises(ValueError, match=r"only PNG|damaged"):
        tagged(data, FACTS)


def test_files_are_replaced_and_links_stay(tmp_path):
    file, link = tmp_path / "a.png", tmp_path / "link.png"
    file.write_bytes(FILES["PNG"])
    file.chmod(0o640)
    os.utime(file, (1e9, 1e9))
    link.symlink_to(file)
    tags = Tags(CARD)
    for path in (link, file):
        tags.add(Row(str(path), mos=2.5, normalized=0.5, percentile=50.0, model="tiny"))
    assert tags.failures == []
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    with Image.open(file) as image:
        facts = json.loads(image.text["ma_agiqa"])
    assert (facts["mos"], facts["checkpoint_sha256"]) == (2.5, CARD.checkpoint_sha256)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "link.png"]


def test_what_changed_or_has_no_score_is_not_touched(tmp_path):
    changed, failed, gif = (tmp_path / name for name in ("a.png", "b.png", "c.gif"))
    for file in (changed, failed, gif):
        file.write_bytes(FILES["PNG"] if file != gif else b"GIF89a")
        os.utime(file, (1e9, 1e9))
    tags = Tags(CARD)
    os.utime(changed, (time.time() + 60,) * 2)
    tags.add(Row(str(changed), mos=2.5))
    tags.add(Row(str(failed), error="It is damaged."))
    tags.add(Row(str(gif), mos=2.5))
    assert [reason.partition(": ")[2][:12] for _, reason in tags.failures] == [
        "the file has",
        "only PNG, JP",
    ]
    assert changed.read_bytes() == failed.read_bytes() == FILES["PNG"]
