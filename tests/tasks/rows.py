"""One row of each kind, with the fields of its data set, and a task of lm-evaluation-harness."""

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
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
DECODED = {  # a task that decodes, as lm-evaluation-harness defines GSM8K
    "output_type": "generate_until",
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["Question:"], "do_sample": False, "max_gen_toks": 9},
    "metric_list": [
        EXACT | {"ignore_case": True, "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]}
    ],
    "filter_list": [
        {
            "name": name,
            "filter": [
                {"function": "regex", "regex_pattern": pattern, "group_select": group},
                {"function": "take_first"},
            ],
        }
        for name, pattern, group in (
            ("strict-match", "#### (\\-?[0-9\\.\\,]+)", 0),
            ("flexible-extract", "(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
        )
    ],
}


def changed(row: dict, **fields) -> dict:
    """Change fields of a row; None removes one."""
    return {name: value for name, value in (row | fields).items() if value is not None}
