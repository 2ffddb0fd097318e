"""Splits: which of the files of a path are its training rows, by the README's `configs` or by the files' names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from fsspec.utils import glob_translate

from mapjob.corpus.listing import Listed, Listing, count, shorten
from mapjob.errors import ConfigError, InputError
from mapjob.escaping import first_line

# The words by which files are told to be of a split, and the name of the split, as the library `datasets` has them.
WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}
WORDS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
_WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*)-(\d+)-of-(\d+)\.[^/]*")
_SHARD = re.compile(r"(?:^|[-/])([\w.]+)-\d+-of-\d+$")
ALL = "all"


@dataclass(frozen=True)
class ReadmeConfig:
    """A config of a README: the split of each pattern of file names; without patterns, all files below `folder`."""

    name: str
    patterns: tuple[tuple[str, str], ...]
    folder: str

    def splits_of(self, name: str) -> frozenset[str] | None:
        """The splits that the file is in, or None if it is no file of this config. By its name if that says which."""
        if not self.patterns:
            is_below = not self.folder or name.startswith(f"{self.folder}/")
            return by_name(name.removeprefix(f"{self.folder}/")) if is_below else None
        splits = {split for split, pattern in self.patterns if re.fullmatch(glob_translate(pattern), name)}
        return frozenset(splits) or None


def by_name(name: str) -> frozenset[str]:
    """The split that a file's name, or a folder in it, tells; empty if none or several do."""
    *folders, base = name.split("/")
    stem = base.partition(".")[0] if not base.startswith(".") else base
    shard = _SHARD.search(stem)
    if shard is not None and _WORD.search(shard[1]):
        return frozenset({WORDS.get(shard[1].lower(), shard[1])})
    words = {WORDS[word.lower()] for word in _WORD.findall(stem)}
    if words:
        return frozenset(words) if len(words) == 1 else frozenset()
    for folder in reversed(folders):
        if _WORD.search(folder):
            return frozenset({WORDS.get(folder.lower(), folder)})
    return frozenset()


def read_configs(readme: str) -> list[ReadmeConfig]:
    """The configs in the YAML front matter of a README; empty if there are none.

    Raises InputError for front matter that is no YAML: nobody knows which of the files it would have left out.
    """
    front = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", readme, re.DOTALL)
    try:
        matter = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError as error:
        do = "mend it, or name the files by a glob in input.path"
        raise InputError(f"its front matter is not valid YAML: {first_line(error)}", "README.md", do) from None
    configs = matter.get("configs") if isinstance(matter, dict) else None
    if not isinstance(configs, list | None) or not all(isinstance(config, dict) for config in configs or ()):
        do = "write configs as a list of {config_name, data_files}, or name the files by a glob in input.path"
        raise InputError("its configs are no list of configs, so they say nothing of the files", "README.md", do)
    return [_config(config) for config in configs or ()]


def _config(config: dict[str, Any]) -> ReadmeConfig:
    folder = str(config.get("data_dir") or "").removeprefix("./").strip("/")
    pairs: list[tuple[str, Any]] = []
    files = config.get("data_files")
    if isinstance(files, dict):
        pairs = list(files.items())
    elif isinstance(files, list) and files and all(isinstance(entry, dict) for entry in files):
        pairs = [(entry.get("split", "train"), entry.get("path")) for entry in files]
    elif files is not None:
        pairs = [("train", files)]
    inside = f"{folder}/" if folder else ""
    patterns = tuple(
        (str(split), inside + str(pattern).removeprefix("./"))
        for split, patterns in pairs
        for pattern in (patterns if isinstance(patterns, list) else [patterns])
    )
    return ReadmeConfig(str(config.get("config_name", "default")), patterns, folder)


def splits_of(listing: Listing, readme: str | None) -> tuple[dict[Listed, frozenset[str]], list[str]]:
    """The splits of each file of a path, and notes. Files that the README's config leaves out are left out.

    Raises InputError if the README has several configs for a folder.
    """
    names = {file: by_name(file.name) for file in listing.files}
    configs = read_configs(readme) if readme is not None else []
    of_configs = []
    for config in configs:
        files = {file: splits for file in listing.files if (splits := config.splits_of(file.name)) is not None}
        if files:
            of_configs.append((config, files))
    if len(of_configs) > 1 and listing.kind == "folder":
        raise InputError(
            f"the README has {len(of_configs)} configs: {', '.join(config.name for config, _ in of_configs)}",
            listing.where,
            f"name one config's files as input.path: {_ways(listing, of_configs)}",
        )
    if len(of_configs) != 1:
        note = ["the README's configs name none of these files: splits go by file names"] if configs else []
        return names, note if not of_configs else []
    ((config, files),) = of_configs
    others = [file.name for file in listing.files if file not in files]
    if not others:
        return files, []
    return files, [
        f"passed over: {count(len(others), 'file')} that the README's config does not name ({shorten(others)})"
    ]


def _ways(listing: Listing, of_configs: Sequence[tuple[ReadmeConfig, Mapping[Listed, frozenset[str]]]]) -> str:
    ways = []
    for config, files in of_configs:
        tops = {file.name.split("/")[0] if "/" in file.name else "" for file in files}
        others = {file.name.split("/")[0] for other, more in of_configs if other is not config for file in more}
        folder = f"{tops.copy().pop()}/" if len(tops) == 1 and "" not in tops and not tops & others else ""
        part = folder or " or ".join(dict.fromkeys(pattern for _, pattern in config.patterns)) or config.folder
        ways.append(f"{config.name}: {listing.url.rstrip('/')}/{part}")
    return "; ".join(ways)


def missing_shards(files: Sequence[Listed]) -> list[str]:
    """A note for each set of shards (`train-00000-of-00003`) of which only some are here."""
    there: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if found := _NUMBERED.fullmatch(file.name):
            there.setdefault((found[1], int(found[3])), set()).add(int(found[2]))
    return [
        f"only {len(numbers)} of the {total} shards {prefix}-*-of-* are here"
        for (prefix, total), numbers in there.items()
        if len(numbers) < total
    ]


def choose_splits(
    splits: Mapping[Listed, frozenset[str]], wanted: str | Sequence[str] | None, where: str
) -> tuple[list[Listed], list[str]]:
    """The files of the splits that are wanted, and what is said of it. null: `train` where files name splits.

    Raises InputError if there are several splits and no `train` among them, ConfigError for one that is not there.
    """
    named = sorted(set().union(*splits.values()))
    unnamed = [file.name for file in splits if not splits[file]]
    if not named and wanted in (None, ALL):
        return list(splits), []
    if wanted is None:
        if "train" not in named and (len(named) > 1 or unnamed):
            beside = f", and {count(len(unnamed), 'file')} without one ({shorten(unnamed)})" if unnamed else ""
            raise InputError(
                f"the files hold the splits {', '.join(named)}{beside}: none of them is `train`",
                where,
                f"set input.split to one of {', '.join(named)}, a list of them, or all",
            )
        taken = ["train"] if "train" in named else named
    elif wanted == ALL:
        taken = named
    else:
        asked = [wanted] if isinstance(wanted, str) else list(wanted)
        taken = [name if name in named else WORDS.get(name, name) for name in asked]
        missing = [name for name, split in zip(asked, taken) if split not in named]
        if missing:
            there = f"there are {', '.join(named)}" if named else "no file names a split"
            do = f"set input.split to one of {', '.join(named)}, a list, or all" if named else "leave input.split out"
            raise ConfigError(f"there is no split {', '.join(missing)}: {there}", "input.split", do)
    kept = [file for file in splits if splits[file] & set(taken) or (wanted == ALL and not splits[file])]
    sizes = {split: sum(split in of for of in splits.values()) for split in named}
    note = ", ".join(f"split {split}: {count(sizes[split], 'file')}" for split in taken)
    left = [f"{split} ({count(sizes[split], 'file')})" for split in named if split not in taken]
    if unnamed and wanted != ALL:
        left.append(f"{count(len(unnamed), 'file')} without a split ({shorten(unnamed)})")
    return kept, [note + (f"; left out: {', '.join(left)}" if left else "")]
