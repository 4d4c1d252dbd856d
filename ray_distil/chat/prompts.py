"""Chat messages: for the teachers and the students, and for long2short.

Messages are lists of `{"role", "content"}`, as chat templates and OpenAI-compatible endpoints take them.
"""

Messages = list[dict[str, str]]

# Word for word the system prompt of the DistilQwen2.5-0324 recipe (EasyDistill). Its "\n\n" is an escape in JSON:
# the model sees two line breaks within the parentheses.
LONG2SHORT = (
    "You are a helpful assistant who is highly skilled at simplifying reasoning processes. Given a problem, its answer "
    "and its reasoning process, your task is to simplify the reasoning process so that a small language model (e.g., a "
    "7B model) can reliably follow the steps to solve the problem. If the original reasoning process is divided into "
    "multiple steps separated by two newline characters (\n\n), your output must preserve this formatting. You must "
    "output ONLY the simplified reasoning process with no additional explanation or commentary."
)


def instruction_messages(instruction: str, suffix: str = "", system_prompt: str | None = None) -> Messages:
    """The instruction as the user's turn. There is a system turn only if `system_prompt` is given: DeepSeek advises to
    give none for V3 and R1.

    Without a system turn, a chat template may still write its own; an empty system turn asks the template for none.
    """
    user = {"role": "user", "content": instruction + suffix}
    if system_prompt is None:
        return [user]
    return [{"role": "system", "content": system_prompt if system_prompt.strip() else ""}, user]


def long2short_messages(instruction: str, answer: str, reasoning: str, system_prompt: str | None = None) -> Messages:
    """The request to shorten a reasoning: the recipe's system prompt; problem, answer and reasoning as user turn."""
    user = f"Problem: {instruction}\nAnswer: {answer}\nReasoning: {reasoning}"
    return [{"role": "system", "content": system_prompt or LONG2SHORT}, {"role": "user", "content": user}]
