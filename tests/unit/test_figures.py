"""Labels of a picture: each near its point, none on another one."""

import itertools
import re

from ray_distil.drawing import figures
from ray_distil.drawing.figures import CHARACTER, LINE_HEIGHT, label_offsets

WIDTH = 72 * figures.WIDTH


def test_labels_of_neighbouring_points_do_not_lie_on_each_other() -> None:
    labels = ["tiny/base", "mine/base", "third/base", "tiny/slow", "mine/slow"]
    places = [(80.0, 20.0), (81.0, 22.0), (84.0, 20.0), (WIDTH - 10, 200.0), (WIDTH - 12, 198.0)]
    boxes = []
    for (x, y), label, (dx, dy) in zip(places, labels, label_offsets(places, labels, WIDTH), strict=True):
        assert x + dx >= 0
        assert x + dx + CHARACTER * len(label) <= WIDTH
        assert y + dy > 0
        boxes.append((x + dx, x + dx + CHARACTER * len(label), y + dy))
    for first, second in itertools.combinations(boxes, 2):
        is_beside = first[1] < second[0] or second[1] < first[0]
        assert is_beside or abs(first[2] - second[2]) >= LINE_HEIGHT


def test_more_labels_than_there_is_room_for_are_drawn_all_the_same() -> None:
    places = [(180.0, 100.0)] * 60
    assert len(set(label_offsets(places, ["a" * 60] * 60, WIDTH))) > 20
    models = [{"name": f"run-{k}/base", "mean_tokens": 60.0 + k, "accuracy": 0.0} for k in range(4)]
    svg = figures.accuracy_scatter(models, models[:1], "run-0/base", None)
    assert re.findall(r">(run-\d/base)<", svg) == [model["name"] for model in models]
