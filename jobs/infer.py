"""Stage 1 of the DistilQwen2.5-0324 recipe, from the recipe's own file: rewrites long reasoning into short reasoning.

ENDPOINT=https://api.deepseek.com/v1 TOKEN=... python jobs/infer.py --config=distilqwen2.5-0324_stage1.json

Keys of this project can be added to the command, e.g. long2short.endpoint.max_concurrency=8.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.run import cli, published


def main() -> int:
    arguments = cli.parser(__doc__, required=True).parse_args()
    return cli.guarded(lambda: published.simplify(arguments.config, arguments.overrides), Path.cwd)


if __name__ == "__main__":
    sys.exit(main())
