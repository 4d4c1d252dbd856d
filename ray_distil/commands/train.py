"""Stage 2 of the DistilQwen2.5-0324 recipe, from the recipe's own file: trains a student on `instruction` and `output`.

ray-distil train --config=distilqwen2.5-0324_stage2.json

Keys of this project can be added to the command, e.g. training.num_workers=8.
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli, published


def main(argv: Sequence[str] | None = None) -> int:
    arguments = cli.ConfigParser("train", __doc__, required=True).parse_args(argv)
    return cli.guarded(lambda: published.train(arguments.config, arguments.overrides), Path.cwd)
