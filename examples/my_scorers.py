"""A scorer of one's own: the last number of a response may differ from the reference by a hundredth of it.

ray-distil eval --models slow=tiny:student-slow "evaluation.benchmarks=[{name: tiny, scorer: 'examples.my_scorers:within_a_percent'}]"
"""

import re


def within_a_percent(response: str, reference: str) -> bool:
    """Whether a response is right. `response`: the text behind the reasoning; `reference`: the problem's answer."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", response.replace(",", ""))
    return bool(numbers) and abs(float(numbers[-1]) - float(reference)) <= abs(float(reference)) / 100
