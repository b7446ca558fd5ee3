"""A tiny converted checkpoint with its own tokenizer, and questions for it."""

import json
from pathlib import Path

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cola_jax.formats.conversion import convert
from cola_jax.question import Question
from tests.oracle import random_model

LAYERS = 5
TEXT = "the sun moon water ice rock iron gas light heat wind rain plant root leaf bird fish"
WORDS = TEXT.split()
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


def tokenizer(chat: bool = True) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE that prepends <s>, as Llama's does."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentences = ["Question: which of the words is it?\nAnswer: A B C D E", " ".join(WORDS)]
    model.train_from_iterator(sentences * 20, trainer)
    model.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", model.token_to_id("<s>"))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        bos_token="<s>",
        eos_token="</s>",
        chat_template=CHAT if chat else None,
    )


def make_source(folder: Path, layers: int = LAYERS) -> Path:
    """Write a random Llama and its tokenizer in Hugging Face layout."""
    words = tokenizer()
    sizes = {"vocab_size": len(words), "num_hidden_layers": layers, "rms_norm_eps": 1e-6}
    model = random_model("llama", **sizes, max_position_embeddings=256)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def make_checkpoint(folder: Path, layers: int = LAYERS) -> Path:
    """Make and convert the tiny model; for the usual one, take the fixture `tiny_checkpoint`."""
    convert(str(make_source(folder / "theirs", layers)), folder / "ours")
    return folder / "ours"


def questions(count: int) -> list[Question]:
    """Make questions of three to five options, some of them of several tokens."""
    made = []
    for i in range(count):
        options = [
            " ".join(WORDS[(3 * i + 5 * j + k) % len(WORDS)] for k in range(1 + j % 2))
            for j in range(3 + i % 3)
        ]
        made.append(Question(f"q{i}", f"which of the {WORDS[i % 17]}?", tuple(options), i % 3))
    return made


def row(question: Question) -> dict:
    """Write a question in ARC's fields."""
    return {
        "id": question.id,
        "question": question.text,
        "choices": {"text": list(question.options), "label": list(question.letters)},
        "answerKey": question.letters[question.answer],
    }


def write_questions(file: Path, count: int) -> Path:
    """Write questions as JSONL."""
    file.write_text("".join(json.dumps(row(q)) + "\n" for q in questions(count)))
    return file
