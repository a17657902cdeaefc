"""What a file is, by its first bytes and not by its name; nothing in it is run."""

from __future__ import annotations

import zipfile
from pathlib import Path

_HEAD = 4096  # bytes
_FIRST = {
    b"version https://git-lfs": "a Git LFS pointer and not the file that it points to; `git lfs pull` fetches that",
    b"\x1f\x8b": "a gzip archive; expected it unpacked",
    b"BZh": "a bzip2 archive; expected it unpacked",
    b"\xfd7zXZ\0": "an xz archive; expected it unpacked",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; expected it unpacked",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; expected it unpacked",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras, or other)",
    b"GGUF": "a GGUF file",
    b"%PDF-": "a PDF document",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"SQLite format 3\0": "an SQLite database",
}
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_PICKLE = "a pickle that torch.save did not write; it would run code of its own"


def is_safetensors(path: Path) -> bool:
    """Say whether a file begins as safetensors do: the length of a JSON header, and that header's brace."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def is_saved_by_torch(path: Path) -> bool:
    """Say whether a file begins as one of `torch.save` does: a zip archive with `data.pkl`, or a pickled number."""
    head = _head(path)
    if head.startswith(b"PK\x03\x04"):
        names = _members(path)
        own = any(name.endswith("data.pkl") for name in names)
        return not names or (own and not _is_script(names))  # without a list of members it is cut short
    # Before torch 1.6: a pickle of a magic number, and then more pickles.
    return head[:1] == b"\x80" and bytes.fromhex("6cfc9c46f9206aa85019") in head[:20]


def damaged_member(path: Path) -> str | None:
    """Return the first member of a zip archive whose bytes have another checksum than the archive says, else None.

    `torch.load` does not compare them. An archive in which none agrees was written without checksums, as
    `torch.serialization.set_crc32_options(False)` does.
    """
    if not _head(path).startswith(b"PK\x03\x04"):
        return None
    with zipfile.ZipFile(path) as archive:
        wrong, members = [], archive.infolist()
        for member in members:
            try:
                with archive.open(member) as file:
                    while file.read(1 << 20):
                        pass
            except zipfile.BadZipFile:
                wrong.append(member.filename)
    return wrong[0] if wrong and len(wrong) < len(members) else None


def describe(path: Path) -> str | None:
    """Return what a file is, as a noun with its article, or None where its first bytes do not tell."""
    head = _head(path)
    if not head:
        return "an empty file"
    for start, kind in _FIRST.items():
        if head.startswith(start):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.lower().startswith(_PAGES):
        return "a web page (HTML or XML); the download asked for a page, a login or an error"
    if b"/annex/objects/" in head[:300]:
        return "a git-annex pointer and not the file that it points to; `git annex get` fetches that"
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return _PICKLE
    if head[257:262] == b"ustar":
        return "a tar archive; expected it unpacked"
    if not any(head):
        return "zero bytes only, as a broken download or a full disk leaves"
    if text[:1] in (b"{", b"["):
        return "JSON text, as an index of several files or a configuration is; expected the weights themselves"
    return "text" if _is_text(head) else None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return []


def _is_script(names: list[str]) -> bool:
    return any(name.endswith("constants.pkl") or "/code/" in name for name in names)


def _zip(path: Path) -> str:
    names = _members(path)
    if _is_script(names):
        return "a TorchScript archive, a program with its weights; save model.state_dict() where it was made"
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive"
    return "a zip archive that torch.save did not write"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)
