"""Stage 1 of the DistilQwen2.5-0324 recipe, from the recipe's own file: rewrites long reasoning into short reasoning.

ENDPOINT=https://api.deepseek.com/v1 TOKEN=... ray-distil infer --config=distilqwen2.5-0324_stage1.json

Keys of this project can be added to the command, e.g. long2short.endpoint.max_concurrency=8.
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli, published


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.ConfigParser("infer", __doc__, required=True).parse_args(argv)
    return cli.guarded(lambda: published.simplify(arguments.config, arguments.overrides), Path.cwd)
