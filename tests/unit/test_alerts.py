"""The alert rules: each metric exists under its name and with its labels, and each rule fires when it should, and only then."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES, NODE_TAG_KEYS

from ray_distil.runtime.metrics import COUNTERS, GAUGES

FILE = Path(__file__).resolve().parents[2] / "cluster" / "grafana" / "alerts.yaml"
PROMTOOL = shutil.which("promtool")
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]
}
OURS = {f"ray_{name}_total": tags for name, (_, tags) in COUNTERS.items()} | {
    f"ray_{name}": tags for name, (_, tags) in GAUGES.items()
}
OF_RAY = {f"ray_{name}": tuple(NODE_TAG_KEYS) for name in METRICS_GAUGES}
RUN = 'run="mine"'


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_whole_and_its_metrics_exist(name: str) -> None:
    rule = RULES[name]
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert set(rule["annotations"]) == {"summary", "description"}
    metrics = re.findall(r"\bray_\w+", rule["expr"])
    assert metrics
    assert set(metrics) <= OURS.keys() | OF_RAY.keys()
    labels = set().union(*({**OURS, **OF_RAY}[metric] for metric in metrics))
    used = {
        label.strip() for group in re.findall(r"(?:by|on) \(([\w, ]+)\)", rule["expr"]) for label in group.split(",")
    }
    used |= set(re.findall(r"(\w+)!?=?~", rule["expr"])) | set(
        re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    )
    assert used <= labels


def test_there_is_a_rule_for_each_thing_to_watch() -> None:
    assert list(RULES) == ["NoRows", "ManyRejects", "BadLoss", "NoTrainingStep", "DiskAlmostFull"]


ROWS, REJECTS = 'ray_distil_rows_written_total{run="mine", stage="responses"}', "ray_distil_rows_rejected_total"
MISSING = 'ray_distil_rows_missing{run="mine", stage="responses"}'
STEPS = {f"ray_distil_train_steps{{{RUN}}}": "900x60"}
STEP, LOSS = f"ray_distil_train_step{{{RUN}}}", f"ray_distil_train_loss{{{RUN}}}"
EVAL_LOSS = f"ray_distil_train_eval_loss{{{RUN}}}"


def rejected(reason: str, stage: str = "responses") -> str:
    return f'{REJECTS}{{run="mine", stage="{stage}", reason="{reason}"}}'


# Values each minute, as promtool writes them: A+BxN counts up, Ax N stays. -> alerts after 40 minutes
WORLDS: dict[str, tuple[dict[str, str], set[str]]] = {
    "rows come": ({MISSING: "1000-4x60", ROWS: "0+4x60"}, set()),
    "rows stop": ({MISSING: "1000-4x20 920x40", ROWS: "0+4x20 80x40"}, {"NoRows"}),
    "rows stopped lately": ({MISSING: "1000-4x32 872x28", ROWS: "0+4x32 128x28"}, set()),
    "only rejects come": (
        {MISSING: "1000-1x60", ROWS: "80x60", rejected("incomplete"): "1+1x60"},
        {"ManyRejects"},
    ),
    "all rows are there": ({MISSING: "0x60", ROWS: "960x60", rejected("incomplete"): "40x60"}, set()),
    "a stage that continued is finished": ({MISSING: "0x60", ROWS: "400x60"}, set()),
    "a stage hangs beside one that works": (
        {
            MISSING: "920x60",
            ROWS: "80x60",
            'ray_distil_rows_written_total{run="mine", stage="eval"}': "0+3x60",
        },
        {"NoRows"},
    ),
    "another run works": (
        {MISSING: "920x60", ROWS: "80x60", 'ray_distil_rows_written_total{run="other", stage="responses"}': "0+3x60"},
        {"NoRows"},
    ),
    "few rows": ({ROWS: "50x60", rejected("incomplete"): "40x60"}, set()),
    "a tenth is rejected": ({ROWS: "900x60", rejected("timeout"): "100x60"}, set()),
    "more than a tenth is rejected, for two reasons": (
        {ROWS: "880x60", rejected("timeout"): "60x60", rejected("http_503"): "60x60"},
        {"ManyRejects"},
    ),
    "unfit sources, and gates": (
        {
            'ray_distil_rows_written_total{run="mine", stage="rewrites"}': "100x60",
            rejected("source_wrong_answer", "rewrites"): "100x60",
            'ray_distil_rows_written_total{run="mine", stage="sft_examples"}': "100x60",
            rejected("wrong_answer", "sft_examples"): "100x60",
        },
        set(),
    ),
    "training": (STEPS | {STEP: "0+1x60", LOSS: "3-0.01x60", EVAL_LOSS: "3-0.01x60"}, set()),
    "training hangs": (STEPS | {STEP: "0+1x20 20x40"}, {"NoTrainingStep"}),
    "training has just begun": (STEPS | {STEP: "_x35 1x25"}, set()),
    "training is done": (STEPS | {STEP: "900x60"}, set()),
    "the loss is nan": ({LOSS: "1x30" + 20 * " NaN"}, {"BadLoss"}),
    "the loss is infinite": ({LOSS: "1x30" + 20 * " Inf"}, {"BadLoss"}),
    "the held-out loss rises": ({EVAL_LOSS: "1-0.01x20 0.8+0.01x40"}, {"BadLoss"}),
    "the held-out loss is level": ({EVAL_LOSS: "1-0.01x20 0.81x40"}, set()),
    "a disk": ({'ray_node_disk_utilization_percentage{ip="10.0.0.1"}': "81x60"}, {"DiskAlmostFull"}),
    "a disk with room": ({'ray_node_disk_utilization_percentage{ip="10.0.0.1"}': "79x60"}, set()),
}


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, of Debian's package prometheus")
@pytest.mark.parametrize("world", WORLDS)
def test_a_rule_fires_when_it_should(world: str, tmp_path: Path) -> None:
    series, alerts = WORLDS[world]
    checks = {
        name: {"alert": name, "expr": f'count by (alertname) (ALERTS{{alertname="{name}", alertstate="firing"}})'}
        for name in RULES
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": check["expr"],
                "eval_time": "40m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name in alerts else [],
            }
            for name, check in checks.items()
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(json.dumps({"rule_files": [str(FILE)], "evaluation_interval": "1m", "tests": [test]}))
    result = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
