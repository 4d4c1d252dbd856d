"""Download models into folders that a configuration can name.

python jobs/download.py 7B                                        alibaba-pai/DistilQwen2.5-DS3-0324-7B; 14B and 32B too
python jobs/download.py 7B 14B 32B --from modelscope --to models  from ModelScope (pip install modelscope)
python jobs/download.py Qwen/Qwen2.5-7B-Instruct                  any model of the hub

The same command continues a download that was stopped.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ray_distil.config.models import HUBS, PUBLISHED, download
from ray_distil.run import cli


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(PUBLISHED)}, or ORG/NAME")
    parser.add_argument("--from", dest="hub", choices=HUBS, default=HUBS[0], help="default: %(default)s")
    parser.add_argument("--to", default="models", metavar="FOLDER", help="default: %(default)s")
    arguments = parser.parse_args()

    def job() -> None:
        for model in arguments.models:
            print(download(model, arguments.hub, Path(arguments.to)), flush=True)

    return cli.guarded(job, lambda: None)


if __name__ == "__main__":
    sys.exit(main())
