#!/usr/bin/env python3
"""Makes packages of a program that was built: a tarball, a Debian package, a Python wheel and an npm package, with checksums
and a bill of materials. The same program and commit give the same bytes: times are those of the commit, orders are sorted.

    packaging/make.py PROGRAM OUT
"""

import base64
import gzip
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = "Train and serve open AI models together, on machines that nobody has to own"
# What packages call this machine: Debian, wheels, npm.
MACHINES = {"x86_64": ("amd64", "x86_64", "x64"), "aarch64": ("arm64", "aarch64", "arm64")}


def run(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def stamp() -> int:
    """When the commit was made: no package is younger."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or run("git", "log", "-1", "--format=%ct"))


def glibc(program: Path) -> tuple[int, int]:
    """The oldest glibc that has everything the program names."""
    named = re.findall(rb"GLIBC_(\d+)\.(\d+)", program.read_bytes())
    return max((int(major), int(minor)) for major, minor in named)


def tar(files: dict[str, tuple[bytes, int]], when: int) -> bytes:
    """A tar archive of files by path, with their modes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        made = set()
        for path, (content, mode) in sorted(files.items()):
            parts = path.lstrip("./").split("/")
            for i in range(1, len(parts)):
                folder = path[: len(path) - len(path.lstrip("./"))] + "/".join(parts[:i])
                if folder not in made:
                    made.add(folder)
                    info = tarfile.TarInfo(folder)
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, when
                    archive.addfile(info)
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(content), mode, when
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def squeeze(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=9, mtime=0)


def tarball(name: str, program: bytes, papers: dict[str, bytes], when: int) -> bytes:
    files = {f"{name}/{path}": (content, 0o644) for path, content in papers.items()}
    return squeeze(tar(files | {f"{name}/talkoo": (program, 0o755)}, when))


def deb(version: str, machine: str, libc: tuple[int, int], program: bytes, papers: dict[str, bytes], when: int) -> bytes:
    data = {f"./usr/share/doc/talkoo/{path}": (content, 0o644) for path, content in papers.items()}
    data["./usr/bin/talkoo"] = (program, 0o755)
    size = sum(len(content) for content, _ in data.values()) // 1024
    control = (
        f"Package: talkoo\nVersion: {version}\nArchitecture: {machine}\nMaintainer: talkoo\nInstalled-Size: {size}\n"
        f"Depends: libc6 (>= {libc[0]}.{libc[1]}), libgcc-s1, libstdc++6\nSection: net\nPriority: optional\n"
        f"Description: {SUMMARY}\n"
    ).encode()
    sums = "".join(f"{hashlib.md5(content).hexdigest()}  {path[2:]}\n" for path, (content, _) in sorted(data.items()))
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", squeeze(tar({"./control": (control, 0o644), "./md5sums": (sums.encode(), 0o644)}, when))),
        ("data.tar.gz", squeeze(tar(data, when))),
    ]
    out = b"!<arch>\n"
    for name, content in parts:
        out += f"{name:<16}{when:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def wheel(version: str, tag: str, program: bytes, papers: dict[str, bytes], when: int) -> bytes:
    info = f"talkoo-{version}.dist-info"
    files = {
        f"talkoo-{version}.data/scripts/talkoo": (program, 0o755),
        f"{info}/METADATA": (
            f"Metadata-Version: 2.4\nName: talkoo\nVersion: {version}\nSummary: {SUMMARY}\n"
            "License-Expression: MIT OR Apache-2.0\n".encode(),
            0o644,
        ),
        f"{info}/WHEEL": (f"Wheel-Version: 1.0\nGenerator: talkoo\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(), 0o644),
    }
    files |= {f"{info}/licenses/{path}": (content, 0o644) for path, content in papers.items()}
    hashed = lambda content: base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    record = "".join(f"{path},sha256={hashed(content)},{len(content)}\n" for path, (content, _) in sorted(files.items()))
    files[f"{info}/RECORD"] = ((record + f"{info}/RECORD,,\n").encode(), 0o644)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, (content, mode) in sorted(files.items()):
            entry = zipfile.ZipInfo(path, time.gmtime(max(when, 315532800))[:6])
            entry.external_attr, entry.compress_type = (0o100000 | mode) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return out.getvalue()


def npm(version: str, machine: str, program: bytes, papers: dict[str, bytes], when: int) -> bytes:
    manifest = {
        "name": "talkoo",
        "version": version,
        "description": SUMMARY,
        "license": "MIT OR Apache-2.0",
        "bin": {"talkoo": "bin/talkoo"},
        "os": ["linux"],
        "cpu": [machine],
        "libc": ["glibc"],
    }
    files = {f"package/{path}": (content, 0o644) for path, content in papers.items()}
    files["package/package.json"] = ((json.dumps(manifest, indent=2) + "\n").encode(), 0o644)
    files["package/bin/talkoo"] = (program, 0o755)
    return squeeze(tar(files, when))


def materials(version: str, program: bytes, when: int) -> bytes:
    """What it is made of, as CycloneDX: every crate of the lock file, with its checksum where it comes from a registry."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    parts = []
    for crate in lock["package"]:
        part = {"type": "library", "name": crate["name"], "version": crate["version"]}
        if crate.get("source", "").startswith("registry"):
            part["purl"] = f"pkg:cargo/{crate['name']}@{crate['version']}"
            part["hashes"] = [{"alg": "SHA-256", "content": crate["checksum"]}]
        parts.append(part)
    about = {
        "type": "application",
        "name": "talkoo",
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(program).hexdigest()}],
    }
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": made, "component": about},
        "components": parts,
    }
    return (json.dumps(bill, indent=1) + "\n").encode()


def main() -> None:
    program, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    stripped = out / "talkoo"
    subprocess.run(["strip", "-o", str(stripped), str(program)], check=True)
    content, libc, when = stripped.read_bytes(), glibc(stripped), stamp()
    stripped.unlink()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    debian, python, node = MACHINES[platform.machine()]
    papers = {name: (ROOT / name).read_bytes() for name in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"]}
    papers["SBOM.cdx.json"] = materials(version, content, when)
    tag = f"py3-none-manylinux_{libc[0]}_{libc[1]}_{python}"
    name = f"talkoo-{version}-linux-{python}"
    made = {
        f"{name}.tar.gz": tarball(name, content, papers, when),
        f"talkoo_{version}_{debian}.deb": deb(version, debian, libc, content, papers, when),
        f"talkoo-{version}-{tag}.whl": wheel(version, tag, content, papers, when),
        f"talkoo-{version}-npm-{node}.tgz": npm(version, node, content, papers, when),
        "talkoo.cdx.json": papers["SBOM.cdx.json"],
    }
    sums = ""
    for name, package in sorted(made.items()):
        (out / name).write_bytes(package)
        sums += f"{hashlib.sha256(package).hexdigest()}  {name}\n"
        print(f"{len(package) / 1e6:6.1f} MB  {name}")
    (out / "SHA256SUMS").write_text(sums)
    print(f"glibc {libc[0]}.{libc[1]} or newer")


if __name__ == "__main__":
    main()
