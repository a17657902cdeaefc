"""Readers of tiles: what they make of the folders that users have, and what they say of broken ones."""

from __future__ import annotations

import csv

import pytest
import torch
from PIL import Image

from nbutils import tables
from nbutils.data import sources
from studies.shortcut import readers, tile_files

# patient, node, x, y, tumor, slide, center, split: two slides a training centre, one of each held out.
WILDS = [
    ("004", 4, 3328, 21792, 1, 0, 0, 0),
    ("004", 4, 3360, 21792, 1, 0, 0, 1),  # overlaps the one above, across splits
    ("009", 1, 3328, 21792, 0, 1, 0, 0),  # the same place on another slide
    ("060", 2, 64, 64, 0, 2, 3, 0),
    ("081", 0, 160, 64, 1, 3, 4, 1),
    ("081", 0, 256, 64, 0, 3, 4, 0),  # touches the one above
    ("020", 4, 64, 64, 0, 4, 1, 0),
    ("042", 3, 64, 64, 1, 5, 2, 1),
]
COLUMNS = ["patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split"]


def write_wilds(folder, rows=WILDS, columns=COLUMNS, mode="RGBA"):
    """Write tiles in the official layout: RGBA files, as the publisher's are; every pixel's red is the row's number."""
    folder.mkdir(parents=True)
    for number, (patient, node, x, y, *_) in enumerate(rows):
        slide = f"patient_{patient}_node_{node}"
        path = folder / "patches" / slide / f"patch_{slide}_x_{x}_y_{y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (96, 96), (number, 20, 30, 255)[: len(mode)]).save(path)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", *columns])
        for number, row in enumerate(rows):
            writer.writerow([number, *(row[COLUMNS.index(column)] for column in columns)])
    return folder


@pytest.fixture
def wilds(tmp_path):
    return write_wilds(tmp_path / "camelyon17_v1.0")


def write_folder(folder, rows):
    """Write a folder with `labels.csv`; tiles of 96×96 for the files that lie in it."""
    (folder / "images").mkdir(parents=True)
    lines = ["file,tumor,scanner,p_umcu_like,split,pcam_index"]
    for number, (file, tumour, scanner, split) in enumerate(rows):
        if file.startswith("images/"):
            Image.new("RGB", (96, 96), (200, 2 * number, 30)).save(folder / file, quality=95)
        lines.append(f"{file},{tumour},{scanner},0.5,{split},{number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


PCAM = [
    ("images/a.jpg", 0, "RUMC", "train"),
    ("images/b.jpg", 1, "UMCU", "train"),
    ("images/c.jpg", 1, "RUMC", "valid"),
]


@pytest.fixture
def pcam(tmp_path):
    return write_folder(tmp_path / "pcam-inferred-scanner", PCAM)


def test_the_official_layout_is_read_with_the_papers_hospitals_and_splits(wilds):
    found = readers.read_wilds(wilds)
    # Centres 0, 3, 4 train; 1 validates; 2 tests: whatever the file's split says of the last two.
    assert [found.hospitals[code] for code in found.hospital] == ["H0", "H0", "H0", "H1", "H2", "H2", "H3", "H4"]
    assert found.split.tolist() == ["train", "id_val", "train", "train", "id_val", "train", "val", "test"]
    assert readers.WILDS_HOSPITALS == {0: 0, 3: 1, 4: 2, 1: 3, 2: 4}
    assert found.tumour.tolist() == [row[4] for row in WILDS]
    assert [found.slides[code] for code in found.slide][:3] == ["patient_004_node_4"] * 2 + ["patient_009_node_1"]
    assert found.position.tolist() == [[row[2], row[3]] for row in WILDS]
    assert found.kind == "hospital"


def test_a_folder_is_read_with_scanners_named_as_inferred(pcam):
    found = readers.read_folder(pcam)
    assert found.kind == "inferred scanner"
    assert found.hospitals == ("RUMC-like", "UMCU-like")
    assert [found.hospitals[code] for code in found.hospital] == ["RUMC-like", "UMCU-like", "RUMC-like"]
    assert (found.tumour.tolist(), found.split.tolist()) == ([0, 1, 1], ["train", "train", "valid"])
    assert found.slides == ("train 0", "train 1", "valid 2")
    assert found.slide.tolist() == [0, 1, 2]
    assert found.images().shape == (3, 3, 96, 96)


def test_pixels_are_decoded_on_demand_and_lie_channels_last(wilds):
    found = readers.read_wilds(wilds)
    images = found.images(torch.tensor([7, 2]))
    assert images.shape == (2, 3, 96, 96)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (images[:, :, 5, 5] * 255).round().tolist() == [[7, 20, 30], [2, 20, 30]]
    assert torch.equal(found.images(torch.tensor([7, 2]), torch.uint8), (images * 255).round().byte())
    assert torch.equal(found.decoded().images(), found.images())
    (wilds / found.pixels.names[0]).unlink()
    assert len(found.images(found.tumour == 0)) == 4  # not among them
    with pytest.raises(FileNotFoundError, match=r"x_3328_y_21792.png \(row 2 of metadata.csv\): the file is gone"):
        found.images()


def test_many_files_decode_in_threads_to_the_same_pixels_and_the_same_error(tmp_path, monkeypatch):
    rows = [(f"images/{number}.jpg", number % 2, "RUMC", "train") for number in range(90)]
    found = readers.read_folder(write_folder(tmp_path / "many", rows))
    monkeypatch.setattr(tile_files.os, "cpu_count", lambda: 4)
    threaded = found.images()
    monkeypatch.setattr(tile_files, "PARALLEL", 1000)
    assert torch.equal(found.images(), threaded)
    monkeypatch.undo()
    (tmp_path / "many" / "images" / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1.jpg \(row 3 of labels.csv\): 0 bytes"):
        found.images()


def spoil(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("081,0,256,64,0,3,4,0", "81,0,160,64,0,3,4,0", "row 7, column x_coord: expected each tile of a slide once"),
        ("y_coord,tumor", "Tumor,tumor", "row 1, column tumor: expected each column once, got ,patient,node,x_coord"),
        ("1,5,2,1\n", "1,5,2,7\n", r"row 9, column split: expected 0 \(train\) or 1 \(id_val\), got '7'"),
        ("1,5,2,1\n", "2,5,2,1\n", "row 9, column tumor: expected 0 or 1, got '2'"),
        ("1,5,2,1\n", "1,5,5,1\n", "row 9, column center: expected 0 to 4, got '5'"),
        ("1,5,2,1\n", ",5,2,1\n", "row 9, column tumor: expected 0 or 1, got a blank cell"),
        ("1,004,4", "1,../x,4", "row 3, column patient: expected a number.*got '../x'"),
        ("1,3,4,1\n", "1,3,3,1\n", "row 7, column center: expected patient_081_node_0 in one, 3, got '4'"),
        ("042,3,64,64", "042,3,64,9999999999", "row 9, column y_coord: expected a whole number of pixels"),
        (",center,", ",centre,", "row 1: expected a column center, got .*centre"),
        (
            "042,3,64,64,1,5,2,1\n",
            "042,3,64,64,1,5,2,1,9,9\n",
            "row 9: expected 9 cells as in the header, got 11 cells",
        ),
    ],
)
def test_a_broken_table_is_named_with_its_row(wilds, old, new, message):
    readers.read_wilds(wilds)
    spoil(wilds / "metadata.csv", old, new)
    with pytest.raises(ValueError, match=rf"metadata\.csv, {message}"):
        readers.read_wilds(wilds)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "1,RUMC,0.5,valid",
            "1,RUMC,0.5,vaild",
            "row 4, column split: expected one of train, valid, test, got 'vaild'",
        ),
        ("p_umcu_like", "tumor", "row 1, column tumor: expected each column once, got file,tumor,scanner,tumor"),
        ("images/b.jpg", "images/a.jpg", "row 3, column file: expected each file once, got 'images/a.jpg' of row 2"),
        ("images/b.jpg", "images/./a.jpg", "row 3, column file: expected each file once, got 'images/a.jpg' of row 2"),
        (",train,1\n", ",train,0\n", "row 3, column pcam_index: expected each tile once, got 'train 0' of row 2"),
        ("images/b.jpg,1", "\n , ,\n\nimages/b.jpg,1.0", "row 6, column tumor: expected 0 or 1, got '1.0'"),
        ("1,RUMC", "1,rumc", "column scanner: expected one spelling, 'RUMC', got 'rumc'"),
        ("1,RUMC", "1,RUMC\u200b", r"column scanner: expected one spelling, 'RUMC', got 'RUMC\\u200b'"),
        (",train,1\n", ",train,1,\n", "row 3: expected 6 cells as in the header, got 7 cells"),
        ("1,UMCU", "yes,UMCU", "row 3, column tumor: expected 0 or 1, got 'yes'"),
        ("images/b.jpg", "../b.jpg", r"row 3, column file: expected a path inside the folder, got '../b.jpg'"),
        ("images/b.jpg", "images/../../b.jpg", "row 3, column file: expected a path inside the folder"),
        ("images/b.jpg", "/b.jpg", "row 3, column file: expected a path inside the folder"),
        ("images/b.jpg", r"..\b.jpg", "row 3, column file: expected a path inside the folder"),
        ("scanner", "hospital", "row 1: expected a column scanner, got file, tumor, hospital"),
    ],
)
def test_a_broken_folder_is_named_with_its_row(pcam, old, new, message):
    readers.read_folder(pcam)
    spoil(pcam / "labels.csv", old, new)
    with pytest.raises(ValueError, match=message):
        readers.read_folder(pcam)


def test_rows_are_numbered_by_the_lines_of_the_file(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes(b'\xef\xbb\xbfname,split\r\n\r\n"two\r\nlines",train\r\nc,test\r\n')
    table = tables.read(path, ["split", "name"])
    assert table.rows == [3, 5]
    assert table.columns == {"split": ["train", "test"], "name": ["two\r\nlines", "c"]}
    with pytest.raises(ValueError, match=r"some\.csv, row 5, column split: expected train, got 'test'"):
        table.match("split", "train", "train")
    for content, message in [
        (b"name,split\n\xff,train\n", "row 2: expected UTF-8 text, got byte 0xff"),
        (b'name,split\n"a"b,train\n', "row 2: expected comma-separated cells"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            tables.read(path, ["name"])


def test_missing_and_damaged_pictures_are_named_with_their_row(pcam, wilds):
    path = pcam / "images" / "b.jpg"
    whole = path.read_bytes()
    found = readers.read_folder(pcam)
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"b.jpg \(row 3 of labels.csv\): [\d,]+ bytes that are not a whole picture"):
        found.images()
    Image.new("RGB", (95, 96)).save(path)
    with pytest.raises(ValueError, match=r"b.jpg \(row 3 of labels.csv\): expected 96×96 pixels, found 96×95"):
        found.images()
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"b.jpg \(row 3 of labels.csv\) is missing"):
        readers.read_folder(pcam)

    (png,) = (wilds / "patches" / "patient_042_node_3").iterdir()
    whole = png.read_bytes()
    png.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"x_64_y_64.png \(row 9 of metadata.csv\): [\d,]+ bytes that are not"):
        readers.read_wilds(wilds).images()
    png.unlink()
    with pytest.raises(FileNotFoundError, match=r"x_64_y_64.png \(row 9 of metadata.csv\) is missing"):
        readers.read_wilds(wilds)


def test_a_tile_in_two_splits_under_two_names_is_refused(pcam):
    (pcam / "images" / "c.jpg").write_bytes((pcam / "images" / "a.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"row 4, column file: expected a tile of valid alone, got .*images/a.jpg in"):
        readers.read_folder(pcam)
    spoil(pcam / "labels.csv", "valid", "train")  # within one split it leaks nothing
    readers.read_folder(pcam)


def test_a_folder_of_other_numbers_of_tiles_is_not_called_camelyon(wilds, monkeypatch):
    assert readers.read_wilds(wilds).source == "unknown, in the layout of Camelyon17-WILDS"
    monkeypatch.setattr(readers, "_WILDS_TILES", {"train": 4, "id_val": 2, "val": 1, "test": 1})
    assert readers.read_wilds(wilds).source == "camelyon17-wilds"


def test_a_table_without_tiles_or_no_table_is_an_error(tmp_path):
    (tmp_path / "labels.csv").write_text("file,tumor,scanner,split,pcam_index\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected at least one row below the header, got none"):
        readers.read_folder(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"labels.csv, row 1: expected a column file, .*, got an empty file"):
        readers.read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"metadata.csv is missing"):
        readers.read_wilds(tmp_path)


def test_loading_prefers_hospitals_then_scanners_then_none(tmp_path, monkeypatch):
    monkeypatch.delenv(sources.DATA_VARIABLE, raising=False)
    assert readers.load("auto") is None
    with pytest.raises(FileNotFoundError, match=f"no real tiles in any folder; set .{sources.DATA_VARIABLE}"):
        readers.load("real")
    write_folder(tmp_path / "pcam-inferred-scanner", PCAM)
    assert readers.load("auto", root=tmp_path).kind == "inferred scanner"
    write_wilds(tmp_path / "camelyon17_v1.0")
    monkeypatch.setenv(sources.DATA_VARIABLE, str(tmp_path))
    assert readers.load("auto").kind == "hospital"
    assert readers.load("real", name="pcam-inferred-scanner").kind == "inferred scanner"
    assert readers.load("embedded") is None
    (tmp_path / "camelyon17_v1.0" / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata.csv is missing"):
        readers.load("auto")  # a damaged folder is not passed over
    with pytest.raises(ValueError, match="'embedded', 'real', 'auto'; got 'fake'"):
        readers.load("fake")
    with pytest.raises(ValueError, match="name must be one of 'camelyon17'"):
        readers.load("real", name="mnist")


@pytest.mark.real_data
@pytest.mark.skipif(
    not sources.find("pcam-inferred-scanner").found, reason=f"no PatchCamelyon under ${sources.DATA_VARIABLE}"
)
def test_genuine_tiles_are_read():
    found = readers.load("real", name="pcam-inferred-scanner")
    assert len(found) == 9458
    assert set(found.split) == {"train", "valid"}
    assert found.images(slice(0, 100)).mean() == pytest.approx(0.6, abs=0.1)
