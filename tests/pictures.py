"""Tiny random models that read pictures, as transformers writes them, and pictures for them."""

import io
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from cola_jax.formats.conversion import convert
from cola_jax.question import PICTURE, Question
from tests import oracle, tiny

LAYERS = 4
SPECIAL = [PICTURE, "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
SPECIAL += [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
TOWER = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "image_size": 16}


def text_config(family: str, vocab: int) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512}
    return transformers.AutoConfig.for_model(family, vocab_size=vocab, rms_norm_eps=1e-6, **sizes)


def llava(tokenizer: Any, family: str) -> tuple[Any, Any]:
    """Makes a LLaVA, whose pictures are four tokens, and its processor."""
    config = transformers.LlavaConfig(
        text_config=text_config(family, len(tokenizer)),
        vision_config=transformers.CLIPVisionConfig(**TOWER, patch_size=8, intermediate_size=24),
        image_token_index=tokenizer.convert_tokens_to_ids(PICTURE),
    )
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    details = {"patch_size": 8, "num_additional_image_tokens": 1}
    details |= {"vision_feature_select_strategy": "default"}
    processor = transformers.LlavaProcessor(images, tokenizer, **details)
    return transformers.LlavaForConditionalGeneration(config), processor


def smolvlm(tokenizer: Any, family: str) -> tuple[Any, Any]:
    """Makes a SmolVLM, whose pictures are tiles of four tokens, and its processor."""
    config = transformers.SmolVLMConfig(
        text_config=text_config(family, len(tokenizer)),
        vision_config={**TOWER, "patch_size": 4, "intermediate_size": 24},
        image_token_id=tokenizer.convert_tokens_to_ids(PICTURE),
        scale_factor=2,
        pad_token_id=0,
    )
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    images = transformers.SmolVLMImageProcessor(**sizes)
    videos = transformers.SmolVLMVideoProcessor(**sizes)
    processor = transformers.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4)
    return transformers.SmolVLMForConditionalGeneration(config), processor


def loaded(folder: Path) -> tuple[Any, Any]:
    """Loads the model and the processor of transformers."""
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder / "theirs")
    return model.eval(), transformers.AutoProcessor.from_pretrained(folder / "theirs")


def logits(model: Any, inputs: Any, path: tuple[int, ...]) -> np.ndarray:
    """Returns the logits [1, T, V] of transformers, its layers those of a path."""
    text = getattr(model.model, "language_model", None) or model.model.text_model
    decoder = types.SimpleNamespace(model=text, config=text.config)
    with torch.no_grad(), oracle.rebuilt(decoder, path):
        return model(**inputs, use_cache=False).logits.numpy()


def rgb(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


MODELS = {
    "llava-llama": (llava, "llama"),
    "llava-qwen2": (llava, "qwen2"),
    "smolvlm": (smolvlm, "llama"),
}


def make(name: str, folder: Path) -> None:
    """Makes a model with its tokenizer and its processor, and converts it."""
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    make, family = MODELS[name]
    torch.manual_seed(0)
    model, processor = make(tokenizer, family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + (parameter.ndim == 1))
    model.save_pretrained(folder / "theirs")
    processor.save_pretrained(folder / "theirs")
    convert(str(folder / "theirs"), folder / "ours")


def picture(seed: int, width: int = 40, height: int = 24) -> bytes:
    """Draws a picture."""
    content = io.BytesIO()
    image = Image.effect_noise((width, height), 60 + seed).convert("RGB")
    image.paste((seed * 40 % 256, 255 - seed * 30 % 256, 90), (seed % 9, 3, 20, 20))
    image.save(content, "PNG")
    return content.getvalue()


def write_questions(folder: Path, count: int) -> Path:
    """Writes questions as JSONL, with pictures beside it for all but every fourth."""
    rows = []
    for i, question in enumerate(tiny.questions(count)):
        rows.append(tiny.row(question))
        if i % 4 != 3:
            (folder / f"{i}.png").write_bytes(picture(i))
            rows[-1]["image"] = f"{i}.png"
    file = folder / "task.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def question(seed: int, text: str = "which of the sun?") -> Question:
    """Makes a question about a picture."""
    options = ("water ice", "rock", "leaf bird")
    return Question(f"q{seed}", f"{PICTURE}\n{text}", options, 1, picture=picture(seed))
