"""Where a build's packages come from: wheels that no index has, package indexes, and a proxy's CA.

Settings are read from pip's own variables and files, so a machine on which pip works needs no
further configuration. pip itself is not imported.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aligntune.errors import ImageError

CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
INDEX_VARIABLES = {
    "UV_DEFAULT_INDEX": ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"),
    "UV_INDEX": ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"),
}
"""uv's variable -> the host's variables that it is taken from, the first one that is set."""

SITE_CONFIG = (Path(sys.prefix, "pip.conf"), Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"))
"""pip's configuration files for all users."""

LOCAL_BUILD = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[\w.]+\+cpu)\b", re.MULTILINE)
SHA256 = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Wheels:
    """What a lock needs besides an index: local files, or addresses that may have them."""

    files: tuple[Path, ...] = ()
    urls: tuple[str, ...] = ()


def find_torch_wheel(lock: Path, find_links: Sequence[str] = (), *, check: bool = True) -> Wheels:
    """The CPU build of torch that ``lock`` names; empty if it names none.

    Args:
        lock: the lock file.
        find_links: folders or addresses to search first; those of pip and uv come after them.
        check: compare the file's hash; otherwise the file only has to exist.

    Raises:
        ImageError: it was not found, or its hash is not the one in the lock.
    """
    text = lock.read_text()
    wanted = LOCAL_BUILD.search(text)
    if wanted is None:
        return Wheels()
    name = f"{wanted['name']}-{wanted['version']}"
    entry = re.split(r"\n(?=\S)", text[wanted.start() :], maxsplit=1)[0]
    hashes = set(SHA256.findall(entry))

    places = list(dict.fromkeys([*find_links, *_configured("find-links", ("UV", "PIP"))]))
    refused: list[Path] = []
    for folder in filter(None, map(_folder, places)):
        for path in sorted(folder.glob(f"{name}-*.whl")):
            if not check or _sha256(path) in hashes:
                return Wheels(files=(path,))
            refused.append(path)
    if refused:
        raise ImageError(
            f"{refused[0]} is not the file that {lock.parent.name}/{lock.name} names: "
            "its sha256 differs",
            "Get the wheel again, or name another folder with --find-links",
        )
    urls = tuple(place for place in places if _folder(place) is None and "://" in place)
    if not urls and not _addresses(INDEX_VARIABLES["UV_INDEX"], "extra-index-url"):
        raise ImageError(
            f"no wheel of {wanted['name']} {wanted['version']} was found; the public index does "
            "not have it",
            "Say where it is: --find-links FOLDER or --find-links URL (PyTorch's own CPU index), "
            "or use --flavour cuda, which also runs on a CPU",
        )
    return Wheels(urls=urls)


def index_settings(wheels: Wheels, environment: Mapping[str, str] = os.environ) -> str:
    """A shell fragment that makes pip and uv in a build use the indexes of this host.

    It may contain a password, so a build gets it as a secret. Folders of this host are left out,
    because a build cannot see them.
    """
    default = _addresses(INDEX_VARIABLES["UV_DEFAULT_INDEX"], "index-url", environment)[:1]
    extra = _addresses(INDEX_VARIABLES["UV_INDEX"], "extra-index-url", environment)
    settings = {
        "UV_DEFAULT_INDEX": default,
        "PIP_INDEX_URL": default,
        "UV_INDEX": extra,
        "PIP_EXTRA_INDEX_URL": extra,
        "UV_FIND_LINKS": list(wheels.urls),
    }
    return "".join(
        f"export {name}={shlex.quote((',' if name == 'UV_FIND_LINKS' else ' ').join(values))}\n"
        for name, values in settings.items()
        if values
    )


def ca_bundle(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The CA bundle that this host is configured to use, for example behind a TLS proxy."""
    named = (Path(environment[name]) for name in CA_VARIABLES if environment.get(name))
    configured = (Path(value) for value in _configured("cert", ("PIP",), environment))
    return next((path for path in (*named, *configured) if path.is_file()), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _folder(place: str) -> Path | None:
    """The folder that a find-links entry names; None for an address of another machine."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        place = unquote(parts.path)
    elif "://" in place:
        return None
    path = Path(place).expanduser()
    return path if path.is_dir() else None


def _addresses(
    variables: Sequence[str], option: str, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Indexes on other machines, from variables or, if none is set, from pip's files."""
    values: list[str] = []
    for name in variables:
        values += environment.get(name, "").split()
    values = values or list(_configured(option, (), environment))
    return [value for value in dict.fromkeys(values) if value.split("=", 1)[-1].startswith("http")]


def _configured(
    option: str, prefixes: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """An option's values, from the variables of the named tools and from pip's files."""
    for prefix in prefixes:
        variable = f"{prefix}_{option.upper().replace('-', '_')}"
        yield from environment.get(variable, "").replace(",", " ").split()
    for path in _pip_files(environment):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip reports what is wrong with its file
        for section in ("install", "global"):
            yield from parser.get(section, option, fallback="").split()


def _pip_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """pip's configuration files, in order of precedence."""
    named = environment.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return ()
    config = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    users = (config / "pip" / "pip.conf", Path.home() / ".pip" / "pip.conf")
    return (*([Path(named)] if named else []), *users, *SITE_CONFIG)
