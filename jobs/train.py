"""Stage 2 of the DistilQwen2.5-0324 recipe, from the recipe's own file: trains a student on `instruction` and `output`.

python jobs/train.py --config=distilqwen2.5-0324_stage2.json

Keys of this project can be added to the command, e.g. training.num_workers=8.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.run import cli, published


def main() -> int:
    arguments = cli.parser(__doc__, required=True).parse_args()
    return cli.guarded(lambda: published.train(arguments.config, arguments.overrides), Path.cwd)


if __name__ == "__main__":
    sys.exit(main())
