"""Which files of a folder hold the records of a split, by its card, by the names of files and folders.

README.md with `configs:`, as on Hugging Face's hub     the files that the card gives a split of a configuration
data/train-00000-of-00001.parquet, test.jsonl           the name tells the split
main/train.jsonl, socratic/train.jsonl                  the folder, or the file, of a configuration
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from ray_distil.records.files import is_data
from ray_distil.store.storage import Folder

CARD = "README.md"
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_SPLIT = re.compile(rf"(?:^|[ ._\-/\d])({'|'.join(SPLITS)})(?=[ ._\-/\d]|$)", re.IGNORECASE)
_PART = re.compile(r"(.*?)(\d{3,})-of-(\d{3,})(\.[^/]*)")
_HEAD = re.compile(r"\A\ufeff?---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Chosen:
    """The files of a folder that are read, and those that are not."""

    files: list[str]
    left_out: list[str]
    splits: list[str]  # the splits that there are; [] if nothing tells a split
    configurations: list[str]  # those that the card, or the names of folders and files, tell
    is_known: bool = True  # whether there is a configuration of the name


def choose(folder: Folder, split: str, name: str | None = None) -> Chosen:
    """The files in a folder, and in the folders below, that hold records of a split; `name`: of which configuration.

    If nothing tells a split, all files count. A file whose name tells none, beside others that do, counts as train.
    Files and folders whose names begin with _ or a dot are no data.
    """
    files = [
        file
        for file in folder.files(recursive=True)
        if not any(part.startswith(("_", ".")) for part in file.split("/"))
    ]
    data = [file for file in files if is_data(file)]
    by_card = _configurations(folder) if CARD in files else {}
    if by_card:
        chosen_name = name or next((key for key in ("default", *by_card) if key in by_card), None)
        of_split = _of_card(by_card.get(chosen_name or "", []), data)
        is_known = name is None or name in by_card
        return _chosen(files, of_split, split, list(by_card), is_known, has_splits=True)

    # The folder of a configuration, or its file. Files that are named by their splits alone are of one configuration.
    of_configuration = {file: own_name for file in data if (own_name := _configuration_of(file))}
    configurations = sorted(set(of_configuration.values()))
    if name is not None and configurations:
        data = [file for file in data if of_configuration.get(file) == name]
    splits = {file: SPLITS[parts[-1].lower()] for file in data if (parts := _SPLIT.findall(file))}
    of_split = {file: splits.get(file, "train") for file in data} if splits else dict.fromkeys(data, split)
    return _chosen(files, of_split, split, configurations, name is None or bool(data), bool(splits))


def _configuration_of(file: str) -> str:
    """The configuration that the name of a file tells: its first folder, else the file's name; "" for names of splits."""
    folder, _, _ = file.rpartition("/")
    first = folder.partition("/")[0]
    if first and first != "data" and "=" not in first and not _SPLIT.search(f"{first}/"):
        return first
    stem = file.rpartition("/")[2].partition(".")[0]
    return "" if _SPLIT.search(stem) or folder else stem


def missing_parts(names: list[str]) -> list[str]:
    """The files that are not there, of data sets whose names count them: a-00001-of-00003.parquet beside 0 and 2.

    Where less than half of the parts are there, somebody has taken some on purpose.
    """
    parts: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if match := _PART.fullmatch(name):
            parts.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    return [
        f"{start}{number:0{len(total)}}-of-{total}{end}"
        for (start, total, end), numbers in sorted(parts.items())
        for number in range(int(total))
        if number not in numbers and 2 * len(numbers) > int(total)
    ]


def _chosen(
    files: list[str], of_split: dict[str, str], split: str, configurations: list[str], is_known: bool, has_splits: bool
) -> Chosen:
    chosen_files = [file for file, name in of_split.items() if name == SPLITS.get(split, split)]
    left_out = [file for file in files if file not in chosen_files]
    splits = sorted(set(of_split.values())) if has_splits else []
    return Chosen(chosen_files, left_out, splits, configurations, is_known)


def _configurations(folder: Folder) -> dict[str, list[Any]]:
    """Configuration -> its `data_files`, by the folder's card; {} where the card tells none."""
    try:
        head = _HEAD.match(folder.read_text(CARD))
        card = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, UnicodeDecodeError):  # a page of another kind
        return {}
    configs = card.get("configs") if isinstance(card, dict) else None
    configurations = {}
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict) and config.get("data_files"):
            data_files = config["data_files"]
            configurations[str(config.get("config_name", "default"))] = (
                data_files if isinstance(data_files, list) else [data_files]
            )
    return configurations


def _of_card(data_files: list[Any], data: list[str]) -> dict[str, str]:
    """File -> its split, by the patterns of a card: texts (train), or objects with `split` and `path`."""
    of_split: dict[str, str] = {}
    for entry in data_files:
        split, paths = (entry.get("split", "train"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        for path in paths if isinstance(paths, list) else [paths]:
            pattern = _pattern(str(path))
            of_split |= {file: SPLITS.get(str(split), str(split)) for file in data if pattern.fullmatch(file)}
    return of_split


def _pattern(path: str) -> "re.Pattern[str]":
    """A pattern of a card as an expression: * within a folder, ** over folders; a folder stands for all in it."""
    parts = re.split(r"(\*\*/?|\*|\?)", path.removeprefix("./"))
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(signs.get(part) or re.escape(part) for part in parts)
    return re.compile(f"{text.rstrip('/')}(?:/.*)?" if not path.endswith("*") else text)
