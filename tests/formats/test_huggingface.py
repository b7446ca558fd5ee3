"""Hugging Face layout: directories that are read or refused, and configs that are written."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import cola_jax
from cola_jax.config import Rope
from cola_jax.formats.conversion import convert
from cola_jax.formats.families import read_config
from cola_jax.formats.huggingface import (
    INDEX,
    open_directory,
    read_stop_tokens,
    select_layers,
    with_llama3,
    write_config,
)
from tests import oracle

WEIGHTS = "model.safetensors"


def edit_config(folder, **changes):
    """Change a config; `...` removes an attribute."""
    file = folder / "config.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def test_open_directory_refuses_a_missing_shard(pair, tmp_path):
    pair("llama-gqa").theirs.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    next((tmp_path / "shards").glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"lacks model-00.*complete the download"):
        open_directory(tmp_path / "shards")


def test_open_directory_names_all_wrong_tensors_at_once(source):
    def change(tensors):
        del tensors["model.layers.2.mlp.up_proj.weight"]
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
        tensors["model.layers.4.self_attn.k_proj.weight"] = torch.ones(8, 32)

    edit_tensors(source, change)
    with pytest.raises(ValueError, match="do not match its config") as raised:
        open_directory(source)
    message = str(raised.value)
    assert "missing model.layers.2.mlp.up_proj.weight" in message
    assert "unmapped model.layers.0.self_attn.q_norm.weight" in message
    shapes = "model.layers.4.self_attn.k_proj.weight is (8, 32) and should be (16, 32)"
    assert f"mis-shaped {shapes}" in message


def test_open_directory_ignores_what_changes_nothing(source):
    """Buffers of old checkpoints, and attributes that transformers writes for itself."""
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(source, lambda tensors: tensors.update({name: torch.ones(4)}))
    edit_config(source, _model_name_or_path="here", _name_or_path="x", _commit_hash=None)
    assert open_directory(source).config.num_layers == 6


def multimodal(folder):
    """Write a tiny multimodal Gemma 3; return the model."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    text = {**oracle.SIZES, **oracle.GEMMA, "tie_word_embeddings": True}
    config = transformers.Gemma3Config(
        text_config={**text, "model_type": "gemma3_text"},
        vision_config={**vision, "model_type": "siglip_vision_model"},
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    oracle.randomise(model.float().eval(), 0)
    model.save_pretrained(folder)
    return model


def test_convert_reads_the_text_part_of_multimodal_gemma(tmp_path):
    theirs = multimodal(tmp_path / "theirs")
    tensors = load_file(tmp_path / "theirs" / WEIGHTS)
    assert "language_model.model.norm.weight" in tensors
    assert any(name.startswith("vision_tower.") for name in tensors)
    convert(str(tmp_path / "theirs"), tmp_path / "ours")
    ids = oracle.random_ids(2)
    with torch.no_grad():
        logits = theirs(input_ids=torch.from_numpy(ids).long(), use_cache=False).logits.numpy()
    ours = cola_jax.run_path(cola_jax.load(tmp_path / "ours"), ids, range(oracle.LAYERS))
    assert oracle.relative_error(ours, logits) < oracle.TOLERANCE
    edit_tensors(
        tmp_path / "theirs", lambda tensors: tensors.update({"audio.weight": torch.ones(1)})
    )
    with pytest.raises(ValueError, match=r"unmapped audio\.weight"):
        open_directory(tmp_path / "theirs")


def test_convert_accepts_a_stored_tied_head(pair, tmp_path):
    source = shutil.copytree(pair("llama-gqa-tied").folder, tmp_path / "tied")

    def store_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    edit_tensors(source, store_head)
    plain = json.loads((pair("llama-gqa-tied").checkpoint / "cola.json").read_text())
    assert convert(str(source), tmp_path / "stored")["digest"] == plain["digest"]
    edit_tensors(source, lambda tensors: tensors["lm_head.weight"][3].mul_(1.001))
    with pytest.raises(ValueError, match=r"says tie_word_embeddings, but lm_head\.weight differs"):
        open_directory(source)


def test_open_directory_refuses_pickled_weights(source):
    torch.save(load_file(source / WEIGHTS), source / "pytorch_model.bin")
    (source / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"but \[pytorch_model\.bin\].*can run code when loaded"):
        open_directory(source)


@pytest.mark.parametrize("keep", [100, -1])
def test_open_directory_refuses_truncated_weights(source, keep):
    whole = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read .*download it ag"):
        open_directory(source)


def test_convert_refuses_integer_weights(source, tmp_path):
    def quantise(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int8)

    edit_tensors(source, quantise)
    with pytest.raises(ValueError, match=r"up_proj\.weight is stored as I8.*dequantised first"):
        convert(str(source), tmp_path / "made")


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {}}'])
def test_open_directory_refuses_a_broken_index(source, index):
    (source / INDEX).write_text(index)
    with pytest.raises(ValueError, match=r"index\.json cannot be read|do not match its config"):
        open_directory(source)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", INDEX, WEIGHTS, "tokenizer.json"]
)
def test_convert_refuses_pipes(source, tmp_path, name):
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    with pytest.raises(ValueError, match=f"{name} is a directory, pipe or device, not a file"):
        convert(str(source), tmp_path / "made")


def make_tokenizer():
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "<|end|>": 4}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def test_convert_copies_the_tokenizer(source, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}!"
    tokenizer.save_pretrained(source)
    (source / "secret.txt").write_text("not ours")
    convert(str(source), tmp_path / "made")
    copied = cola_jax.load_tokenizer(tmp_path / "made")
    assert copied("ab cab").input_ids == tokenizer("ab cab").input_ids
    chat = [{"role": "user", "content": "ab"}]
    assert copied.apply_chat_template(chat, tokenize=False) == "ab!"
    assert not list((tmp_path / "made").rglob("secret.txt"))


def test_read_stop_tokens_takes_the_first_that_has_any(source):
    """The generation config, then the config, then its text part."""
    generation = source / "generation_config.json"
    for ids, expected in ((7, (7,)), ([9, 2, 9], (2, 9)), (0, (0,))):
        generation.write_text(json.dumps({"eos_token_id": ids}))
        assert open_directory(source).stop_tokens == expected
    for ids in ({}, {"eos_token_id": None}, {"eos_token_id": []}):
        generation.write_text(json.dumps(ids))
        edit_config(source, eos_token_id=[5, 3])
        assert open_directory(source).stop_tokens == (3, 5)
        edit_config(source, eos_token_id=...)
        assert open_directory(source).stop_tokens == ()
    generation.unlink()
    edit_config(source, eos_token_id=6)
    assert open_directory(source).stop_tokens == (6,)
    assert read_stop_tokens(source, {"text_config": {"eos_token_id": [1, 106]}}) == (1, 106)


@pytest.mark.parametrize("ids", ["2", True, -1, [1, "2"]])
def test_open_directory_refuses_stop_tokens_that_are_not_ids(source, ids):
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(ValueError, match=r"eos_token_id of generation_config\.json cannot be read"):
        open_directory(source)


def test_select_layers_moves_attributes_with_the_layers(pair):
    config = pair("gemma3").ours.config
    assert config.windows == (5, 5, None, 5, 5, None)
    moved = select_layers(config, (2, 0, 0, 5))
    assert moved.windows == (None, 5, 5, None)
    assert moved.layer_ropes == (0, 1, 1, 0)
    assert write_config(moved, "float32")["layer_types"] == [
        *("full_attention", "sliding_attention", "sliding_attention", "full_attention")
    ]


@pytest.mark.parametrize(
    ("path", "first"),
    [((0, 1, 3, 4), 2), ((3, 4), 0), ((0, 1, 2), 3)],
)
def test_write_config_says_max_window_layers_where_it_can(pair, path, first):
    config = pair("qwen2-window").ours.config  # layers 3, 4 and 5 have a window
    values = write_config(select_layers(config, path), "float32")
    assert values["max_window_layers"] == first
    assert values["use_sliding_window"] is any(layer >= 3 for layer in path)


def test_write_config_names_what_cannot_be_held(pair):
    config = pair("qwen2-window").ours.config
    two = dataclasses.replace(config, windows=(None, 5, 5, 5, 5, 7))
    with pytest.raises(ValueError, match=r"model_type qwen2 cannot hold \{'windows'"):
        write_config(two, "float32")


def test_with_llama3_recognises_the_divisors_of_gguf_files(pair):
    plain, named = Rope(theta=500000.0), Rope(theta=500000.0, llama3=(32.0, 1.0, 4.0, 8192))
    divisors = plain.frequencies(64) / named.frequencies(64)
    stored = dataclasses.replace(plain, divisors=tuple(float(x) for x in divisors))
    assert with_llama3(stored, 64) == named
    config = dataclasses.replace(pair("llama-gqa").ours.config, head_dim=64, ropes=(stored,))
    assert read_config(write_config(config, "float32"))[0].ropes == (named,)
    other = dataclasses.replace(plain, divisors=(1.0,) * 31 + (2.0,))
    with pytest.raises(ValueError, match=r"divisors that are not those of Llama 3\.1"):
        with_llama3(other, 64)
