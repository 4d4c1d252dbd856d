"""Download models into folders that a configuration can name.

ray-distil download 7B                                        alibaba-pai/DistilQwen2.5-DS3-0324-7B; 14B and 32B too
ray-distil download 7B 14B 32B --from modelscope --to models  from ModelScope (pip install modelscope)
ray-distil download Qwen/Qwen2.5-7B-Instruct                  any model of the hub

The same command continues a download that was stopped.
"""

from collections.abc import Sequence
from pathlib import Path

from ray_distil.commands import cli
from ray_distil.config.models import HUBS, PUBLISHED, download


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.CommandParser("download", __doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{', '.join(PUBLISHED)}, or ORG/NAME")
    parser.add_argument("--from", dest="hub", choices=HUBS, default=HUBS[0], help="default: %(default)s")
    parser.add_argument("--to", default="models", metavar="FOLDER", help="default: %(default)s")
    arguments = parser.parse_args(argv)

    def job() -> None:
        for model in arguments.models:
            print(download(model, arguments.hub, Path(arguments.to)), flush=True)

    return cli.guarded(job)
