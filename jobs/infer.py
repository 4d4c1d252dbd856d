"""Stage 1 of the DistilQwen2.5-0324 recipe, from its own file: long reasoning in, short reasoning out.

ENDPOINT=https://api.deepseek.com/v1 TOKEN=... python jobs/infer.py --config=distilqwen2.5-0324_stage1.json

More keys of this project can be set behind it, as long2short.endpoint.max_concurrency=8.
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
