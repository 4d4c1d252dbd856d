"""The console command `ray-distil COMMAND ...`. Without a command's name, its options are those of `distill`."""

import sys
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from ray_distil.version import __version__


class Command(NamedTuple):
    module: str  # in this folder
    help: str
    options: tuple[str, ...] = ()  # that the command stands for
    function: str = "main"


COMMANDS = {
    "distill": Command("distill", "from instructions to a student and a report"),
    "plan": Command("distill", "rows, tokens, GPU-hours and disk that a run will need; starts nothing", ("--plan",)),
    "status": Command("distill", "RUN_FOLDER: the stages of a run, finished or in the middle", ("--status",)),
    "eval": Command("evaluate", "models on benchmarks: accuracy with its interval, and tokens"),
    "ablate": Command("ablate", "students without a gate or the rewriting, beside the student of the full run"),
    "report": Command("report", "RUN_FOLDER: the report of a run anew; of several runs on one page"),
    "export": Command(
        "export",
        "RUN_FOLDER FILE: the texts of a run for other trainers; with --hub FOLDER as a data set with its card",
    ),
    "clean": Command("clean", "RUN_FOLDER: removes what a run has superseded"),
    "download": Command("download", "models into folders that a configuration can name"),
    "trace": Command("trace", "RUN_FOLDER TEXT: what became of a problem, from its source to the training sequence"),
    "infer": Command(
        "published", "stage 1 of the DistilQwen2.5-0324 recipe, from the recipe's own file", function="infer"
    ),
    "train": Command(
        "published", "stage 2 of the DistilQwen2.5-0324 recipe, from the recipe's own file", function="train_student"
    ),
}


def usage() -> str:
    lines = [f"  {name:<10}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: ray-distil COMMAND ...", "", *lines, "", "ray-distil COMMAND --help shows its options."])


def main() -> int:
    """Run the command that `sys.argv` names; returns its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"ray-distil {__version__}")
        return 0

    # An option or an override where the command's name would be: `ray-distil --plan`, `ray-distil run.name=first`.
    name = "distill" if arguments[0].startswith("-") or "=" in arguments[0] else arguments.pop(0)
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: ray-distil has no command {name!r}; {hint}", file=sys.stderr)
        return 2

    command = COMMANDS[name]
    if not {"-h", "--help"}.isdisjoint(arguments):
        command = command._replace(options=())  # the help is that of the whole command
    module = import_module(f"ray_distil.commands.{command.module}")
    return int(getattr(module, command.function)([*command.options, *arguments]))
