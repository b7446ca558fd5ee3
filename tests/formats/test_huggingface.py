"""Hugging Face layout: directories that are read or refused, and configs that are written."""

import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import cola_jax
from cola_jax.errors import InputError
from cola_jax.formats.conversion import convert
from cola_jax.formats.huggingface import INDEX, open_directory, read_stop_tokens
from tests import oracle

GENERATION, WEIGHTS = "generation_config.json", "model.safetensors"
PARTS = ("mlp.up_proj", "self_attn.q_norm", "self_attn.k_proj")


def edited(values, changes):
    """Change entries; `...` removes one."""
    return {k: v for k, v in (values | changes).items() if v is not ...}


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(edited(json.loads(file.read_text()), changes)))


def edit_tensors(folder, changes):
    save_file(edited(load_file(folder / WEIGHTS), changes), folder / WEIGHTS, {"format": "pt"})


def test_open_directory_names_all_wrong_tensors_at_once(source):
    up, norm, key = (f"model.layers.0.{x}.weight" for x in PARTS)
    edit_tensors(source, {up: ..., norm: torch.ones(8), key: torch.ones(8, 32)})
    with pytest.raises(ValueError, match="do not match its config") as raised:
        open_directory(source)
    message = str(raised.value)
    for problem in (
        f"missing {up}",
        f"unmapped {norm}",
        f"mis-shaped {key} is (8, 32) and should be (16, 32)",
    ):
        assert problem in message


def test_open_directory_reads_its_own_folder_and_blobs_of_the_hub_alone(source, tmp_path):
    """The cache of the Hub links the files of a snapshot to its blobs."""
    repository = tmp_path / "models--someone--tiny"
    snapshot, blobs = repository / "snapshots" / "0123abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in source.iterdir():
        shutil.copy(file, blobs / f"sha-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/sha-{file.name}")
    assert open_directory(snapshot).config.num_layers == 6
    for name in ("tokenizer.model", "README.md", WEIGHTS):
        (source / name).unlink(missing_ok=True)
        (source / name).symlink_to("/etc/hostname")
        with pytest.raises(InputError, match=rf"{name} is a link to /etc/hostname, which is not"):
            open_directory(source)
        (source / name).unlink()
    for name in ("../away/model.safetensors", "/away/model.safetensors"):
        (source / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(InputError, match=r"it names .*, which is not a file beside it"):
            open_directory(source)


def test_open_directory_ignores_what_changes_nothing(source):
    """Buffers of old checkpoints, and attributes that transformers writes for itself."""
    edit_tensors(source, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    edit_config(source, _model_name_or_path="here", _name_or_path="x", _commit_hash=None)
    assert open_directory(source).config.num_layers == 6


@pytest.mark.parametrize(
    ("kind", "variant", "vision_kind"),
    [
        ("gemma3", "gemma3", "siglip_vision_model"),
        ("gemma4", "gemma4-e", "gemma4_vision"),
        ("mistral3", "ministral3", "pixtral"),
    ],
)
def test_convert_reads_the_text_part_of_multimodal_models(tmp_path, kind, variant, vision_kind):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = {**sizes, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    family, fields = oracle.VARIANTS[variant]
    config = transformers.AutoConfig.for_model(
        kind,
        text_config={**oracle.SIZES, **fields, "model_type": family},
        vision_config={**vision, "model_type": vision_kind},
    )
    auto = transformers.AutoModelForImageTextToText
    theirs = auto.from_config(config, attn_implementation="eager")
    oracle.randomise(theirs.float().eval(), 0)
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert {"language_model.model.norm.weight", "model.language_model.norm.weight"} & {*tensors}
    assert any("vision_tower." in name for name in tensors)
    ids = oracle.random_ids(2)
    with torch.no_grad():
        logits = theirs(input_ids=torch.from_numpy(ids).long(), use_cache=False).logits.numpy()
    ours = cola_jax.run_path(oracle.convert_in_memory(tmp_path), ids, range(oracle.LAYERS))
    assert oracle.relative_error(ours, logits) < oracle.TOLERANCE
    edit_tensors(tmp_path, {"audio.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"unmapped audio\.weight"):
        open_directory(tmp_path)


def test_open_directory_ignores_keys_of_layers_that_share_others(pair, tmp_path):
    """Files of Gemma 4 E2B and E4B have them."""
    source = shutil.copytree(pair("gemma4-e").folder, tmp_path / "gemma")
    edit_tensors(source, {"model.layers.4.self_attn.k_norm.weight": torch.ones(12)})
    assert open_directory(source).config.keys_of == (None, None, None, None, 3, 0)
    edit_tensors(source, {"model.layers.4.self_attn.v_norm.weight": torch.ones(12)})
    with pytest.raises(ValueError, match=r"unmapped model\.layers\.4\.self_attn\.v_norm\.weight"):
        open_directory(source)


def test_open_directory_ignores_the_layer_after_the_last_of_glm(pair, tmp_path):
    """It predicts further tokens, and transformers does not run it either."""
    source = shutil.copytree(pair("glm4-moe").folder, tmp_path / "glm")
    edit_tensors(source, {f"model.layers.{oracle.LAYERS}.enorm.weight": torch.ones(32)})
    assert open_directory(source).config.num_layers == oracle.LAYERS
    edit_tensors(source, {f"model.layers.{oracle.LAYERS + 1}.enorm.weight": torch.ones(32)})
    with pytest.raises(ValueError, match=r"unmapped model\.layers\.7\.enorm\.weight"):
        open_directory(source)


def test_convert_widens_mxfp4_as_transformers_does(tmp_path):
    """On random bytes, with scales that keep the values of weights as large as usual."""
    theirs = oracle.random_model("gpt_oss", **{**oracle.GPT_OSS, "intermediate_size": 64})
    generator, changes = torch.Generator().manual_seed(0), {}
    for i, layer in enumerate(theirs.model.layers):
        for name in ("gate_up_proj", "down_proj"):
            weight, place = getattr(layer.mlp.experts, name), f"model.layers.{i}.mlp.experts.{name}"
            experts, inputs, outputs = weight.shape
            shape, options = (experts, outputs, inputs // 32), {"dtype": torch.uint8}
            blocks = torch.randint(256, (*shape, 16), generator=generator, **options)
            scales = torch.randint(120, 125, shape, generator=generator, **options)
            weight.data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            changes |= {place: ..., f"{place}_blocks": blocks, f"{place}_scales": scales}
    theirs.save_pretrained(tmp_path)
    edit_tensors(tmp_path, changes)
    edit_config(tmp_path, quantization_config={"quant_method": "mxfp4"})
    ids = oracle.random_ids(2)
    ours = cola_jax.run_path(oracle.convert_in_memory(tmp_path), ids, range(oracle.LAYERS))
    logits = oracle.logits(theirs, ids, range(oracle.LAYERS))
    assert oracle.relative_error(ours, logits) < oracle.TOLERANCE
    edit_tensors(tmp_path, {"model.layers.0.mlp.experts.down_proj_scales": torch.ones(6, 32, 2)})
    with pytest.raises(ValueError, match=r"missing model\.layers\.0\.mlp\.experts\.down_proj;"):
        open_directory(tmp_path)


def test_convert_accepts_a_stored_tied_head(pair, tmp_path):
    source = shutil.copytree(pair("llama-gqa-tied").folder, tmp_path / "tied")
    head = {"lm_head.weight": load_file(source / WEIGHTS)["model.embed_tokens.weight"].clone()}
    edit_tensors(source, head)
    plain = json.loads((pair("llama-gqa-tied").checkpoint / "cola.json").read_text())
    assert convert(str(source), tmp_path / "stored")["digest"] == plain["digest"]
    head["lm_head.weight"][3].mul_(1.001)
    edit_tensors(source, head)
    with pytest.raises(ValueError, match=r"says tie_word_embeddings, but lm_head\.weight differs"):
        open_directory(source)


def test_open_directory_refuses_pickled_weights(source):
    (source / WEIGHTS).rename(source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"but \[pytorch_model\.bin\].*can run code when loaded"):
        open_directory(source)


@pytest.mark.parametrize("keep", [100, -1])
def test_open_directory_refuses_truncated_weights(source, keep):
    whole = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read .*download it ag"):
        open_directory(source)


def test_convert_refuses_integer_weights(source, tmp_path):
    integers = torch.ones(48, 32, dtype=torch.int8)
    edit_tensors(source, {"model.layers.1.mlp.up_proj.weight": integers})
    with pytest.raises(ValueError, match=r"up_proj\.weight is stored as I8.*dequantised first"):
        convert(str(source), tmp_path / "made")


INDICES = ("{", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {}}')
NO_IDS = ('"2"', "true", "-1", '[1, "2"]')


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [(INDEX, x, r"index\.json cannot be read|do not match its config") for x in INDICES]
    + [
        (GENERATION, f'{{"eos_token_id": {x}}}', r"eos_token_id of gen.*\.json cannot be read")
        for x in NO_IDS
    ],
)
def test_open_directory_refuses_broken_json(source, file, content, message):
    (source / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        open_directory(source)


@pytest.mark.parametrize("name", ["config.json", GENERATION, INDEX, WEIGHTS, "tokenizer.json"])
def test_convert_refuses_pipes(source, tmp_path, name):
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    with pytest.raises(ValueError, match=f"{name} is a directory, pipe or device, not a file"):
        convert(str(source), tmp_path / "made")


def test_read_stop_tokens_takes_the_first_that_has_any(source):
    """The generation config, then the config, then its text part."""
    generation = source / GENERATION
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
