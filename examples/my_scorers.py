"""A scorer of one's own: the last number of a response may differ from the reference by a hundredth of it.

ray-distil eval --models slow=tiny:student-slow "evaluation.benchmarks=[{name: tiny, scorer: 'examples.my_scorers:within_a_percent'}]"
"""

import re

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def within_a_percent(response: str, reference: str) -> bool:
    """Whether a response is right. `response`: the text behind the reasoning; `reference`: the problem's answer."""
    numbers, expected = (NUMBER.findall(text.replace(",", "")) for text in (response, reference))
    if not numbers or not expected:
        return False
    return abs(float(numbers[-1]) - float(expected[-1])) <= abs(float(expected[-1])) / 100
