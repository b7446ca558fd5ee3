"""One row of each kind, with the fields that its data set has."""

ARC = {
    "id": "q1",
    "question": "What melts?",
    "choices": {"text": ["ice", "iron ore", "wind"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}
MMLU = {
    "question": "Which is prime?",
    "subject": "number_theory",
    "choices": ["4", "6", "7", "8"],
    "answer": 2,
}
GSM8K = {
    "question": "Ann has 3 apples and buys 4. How many?",
    "answer": "She has 3 + 4 = <<3+4=7>>7 apples.\nSold for $<<7*200=1400>>1400.\n#### $1,400",
}
MATH = {
    "problem": "What is $1+\\frac12$?",
    "level": "Level 3",
    "type": "Prealgebra",
    "solution": "It is $\\boxed{1}$ and a half: $\\boxed{\\frac{3}{2}}$.",
}
MATH500 = {
    "problem": "How many?",
    "solution": "Count: $\\boxed{11}$.",
    "answer": "11",
    "subject": "Algebra",
    "level": 3,
    "unique_id": "test/algebra/170.json",
}
DART = {
    "query_id": "MATH/train/algebra/1.json",
    "query": "What is $2^5$?",
    "gt_ans": "32",
    "query_metadata": "{'level': 2, 'domain': 'Algebra'}",
    "pass_rate": 0.8,
}
PLAIN = {"prompt": "The capital of France is", "answer": "Paris"}


def changed(row: dict, **fields) -> dict:
    """Returns a row with other fields; None removes one."""
    return {name: value for name, value in (row | fields).items() if value is not None}
