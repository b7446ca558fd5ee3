"""Hugging Face directories and Hub ids: what is read, and everything that must be refused."""

import json
import shutil

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.convert import convert
from cola_jax.convert.families import FAMILIES, read_config
from cola_jax.convert.huggingface import open_directory, open_hub, read_stop_tokens
from tests import oracle

WEIGHTS = "model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def edit_config(folder, **changes):
    """Changes a config; `...` removes an attribute."""
    file = folder / "config.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def config_of(folder):
    return read_config(json.loads((folder / "config.json").read_text()))[0]


def test_shards_and_a_single_file_give_one_digest(pair, source, tmp_path):
    pair("llama-gqa").theirs.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    one = convert(str(source), tmp_path / "one")
    many = convert(str(tmp_path / "shards"), tmp_path / "many")
    assert one["digest"] == many["digest"]
    next((tmp_path / "shards").glob("*.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"lacks \['model-00.*complete the download"):
        open_directory(tmp_path / "shards")


def test_wrong_tensors_are_all_named_at_once(source):
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


def test_long_lists_of_tensors_are_cut(source):
    edit_config(source, num_hidden_layers=8)
    with pytest.raises(ValueError, match=r"missing .* and 10 more\."):
        open_directory(source)


def test_buffers_of_old_checkpoints_are_ignored(source):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(source, lambda tensors: tensors.update({name: torch.ones(4)}))
    open_directory(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gpt2"},
            "model_type 'gpt2' is not supported; gemma3, gemma3_text, llama, mistral, olmo2, "
            "olmoe, qwen2, qwen2_moe, qwen3, qwen3_moe are",
        ),
        ({"model_type": ...}, "model_type None is not supported"),
        ({"flux": 3}, "does not handle: flux = 3"),
        ({"flux": 3, "hidden_act": "gelu"}, "flux = 3, hidden_act = 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn' is not supp"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope type 'dynamic' is not supported"),
        (
            {"rope_parameters": {"rope_type": "linear"}},
            "factor must be a positive number, it is None",
        ),
        ({"rope_parameters": {"rope_type": "default", "twist": 1}}, r"do not know: \{'twist': 1\}"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial rotary"),
        ({"rope_scaling": "linear", "rope_parameters": ...}, "rope_scaling"),
        ({"hidden_size": ...}, "hidden_size must be a positive number, it is None"),
        ({"hidden_size": "32"}, "hidden_size must be a positive number, it is '32'"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers must be a whole number"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 key/value heads"),
    ],
)
def test_configs_that_would_be_misread_are_refused(source, changes, message):
    edit_config(source, **changes)
    with pytest.raises(ValueError, match=message):
        open_directory(source)


JUNK = (None, True, -1, 0, 1.5, float("inf"), "x", [], ["x"], {}, {"x": 1})


@pytest.mark.parametrize(
    "variant",
    [
        *("llama-llama3-rope", "mistral-window", "qwen2-window"),
        *("gemma3", "olmoe-clip", "qwen2-moe-window", "qwen3-moe-window"),
    ],
)
def test_junk_in_any_attribute_is_a_value_error_or_harmless(pair, variant):
    values = json.loads((pair(variant).folder / "config.json").read_text())
    values["rope_scaling"] = None
    cases = [(name, junk) for name in values for junk in JUNK]
    cases += [
        ("rope_parameters", values["rope_parameters"] | {name: junk})
        for name in values["rope_parameters"]
        for junk in JUNK
    ]
    for name, junk in cases:
        try:
            read_config(values | {name: junk})
        except ValueError:
            continue
        except Exception as error:
            raise AssertionError(f"{name} = {junk!r}") from error


def test_qwen_layer_types_are_checked(pair, tmp_path):
    source = shutil.copytree(pair("qwen2-window").folder, tmp_path / "qwen")
    for types, message in (
        (["full_attention"] * 5, "for each of 6 layers"),
        (["full_attention"] * 5 + ["chunked_attention"], "must name full_attention or sliding"),
    ):
        edit_config(source, layer_types=types)
        with pytest.raises(ValueError, match=message):
            open_directory(source)
    edit_config(source, layer_types=["sliding_attention", "full_attention"] * 3)
    assert config_of(source).windows == (5, None, 5, None, 5, None)
    edit_config(source, use_sliding_window=False)
    with pytest.raises(ValueError, match="sliding_attention, but there is no window"):
        open_directory(source)
    edit_config(source, use_sliding_window=True, layer_types=...)
    assert config_of(source).windows == (None, None, None, 5, 5, 5)


def test_mistral_without_a_window_in_its_config_has_the_default_of_transformers(pair, tmp_path):
    source = shutil.copytree(pair("mistral-window").folder, tmp_path / "mistral")
    edit_config(source, sliding_window=...)
    assert config_of(source).windows == (4096,) * 6
    edit_config(source, sliding_window=None)
    assert config_of(source).windows == (None,) * 6


@pytest.mark.parametrize("variant", ["llama-gqa", "llama-linear-rope", "llama-llama3-rope"])
def test_old_and_new_configs_mean_the_same(pair, variant, tmp_path):
    source = shutil.copytree(pair(variant).folder, tmp_path / "old")
    new = config_of(source)
    rope = dict(oracle.VARIANTS[variant][1].get("rope_parameters", {}))
    theta = rope.pop("rope_theta", 10000.0)
    old = {"rope_theta": theta, "rope_scaling": rope or None, "rope_parameters": ...}
    edit_config(source, **old, torch_dtype="float32", dtype=...)
    assert config_of(source) == new
    if rope:  # the oldest spelling
        rope["type"] = rope.pop("rope_type")
        edit_config(source, rope_scaling=rope)
        assert config_of(source) == new
    open_directory(source)


def test_optional_attributes_have_the_defaults_of_transformers(pair, tmp_path):
    """What transformers fills in for a minimal config, ours reads from the minimal config."""
    import transformers

    required = ("vocab_size", "hidden_size", "intermediate_size")
    required += ("num_hidden_layers", "num_attention_heads")
    for family in FAMILIES.keys() - {"gemma3"}:
        minimal = {name: oracle.SIZES[name] for name in required}
        minimal["num_attention_heads"] = 32  # what the default of kv heads divides
        whole = transformers.AutoConfig.for_model(family, **minimal).to_dict()
        whole = {name: value for name, value in whole.items() if value is not None}
        read, _ = read_config({"model_type": family, **minimal})
        full, _ = read_config({"num_key_value_heads": 32} | whole | {"model_type": family})
        assert read == full, family


def test_older_gemma_configs_mean_the_same(pair, tmp_path):
    """As released: a pattern for the layers' kinds, and both thetas at the top."""
    source = shutil.copytree(pair("gemma3").folder, tmp_path / "gemma")
    new = config_of(source)
    assert new.windows == (5, 5, None, 5, 5, None)
    assert new.layer_ropes == (1, 1, 0, 1, 1, 0)
    assert [rope.theta for rope in new.ropes] == [10000, 50]
    removed = dict.fromkeys(("layer_types", "rope_parameters", "_sliding_window_pattern"), ...)
    scaling = {"rope_type": "linear", "factor": 2.5}
    old = {"rope_theta": 10000, "rope_scaling": scaling, "rope_local_base_freq": 50}
    edit_config(source, **removed, **old, sliding_window_pattern=3, cache_implementation="hybrid")
    assert config_of(source) == new
    edit_config(source, sliding_window_pattern=...)
    assert config_of(source).windows == (5, 5, 5, 5, 5, None)


def multimodal(folder):
    """Writes a tiny Gemma 3 that has eyes; returns the model."""
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    eyes = {**sizes, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    text = {**oracle.SIZES, **oracle.GEMMA, "tie_word_embeddings": True}
    config = transformers.Gemma3Config(
        text_config={**text, "model_type": "gemma3_text"},
        vision_config={**eyes, "model_type": "siglip_vision_model"},
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    oracle.randomise(model.float().eval(), 0)
    model.save_pretrained(folder)
    return model


def test_the_text_part_of_a_multimodal_gemma_is_read(tmp_path):
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
        tmp_path / "theirs", lambda tensors: tensors.update({"ears.weight": torch.ones(1)})
    )
    with pytest.raises(ValueError, match=r"unmapped ears\.weight"):
        open_directory(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (
            "qwen2-moe",
            {"decoder_sparse_step": 2},
            "decoder_sparse_step is 2 and .* all of one kind",
        ),
        ("qwen3-moe", {"mlp_only_layers": [0]}, r"mlp_only_layers \[0\], so some layers have exp"),
        ("olmoe", {"num_experts_per_tok": 7}, "a token cannot use 7 of 6 experts"),
        ("olmoe", {"clip_qkv": -1}, "clip_qkv must be a positive number, it is -1"),
        ("olmoe", {"num_experts": 5}, r"unmapped model\.layers\.0\.mlp\.experts\.5\.down_proj"),
        ("olmoe", {"num_experts": 7}, r"missing model\.layers\.0\.mlp\.experts\.6\.down_proj"),
        ("gemma3", {"hidden_activation": "relu"}, "hidden_activation must be gelu_pytorch_tanh"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not sup"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "does not handle: final_logit_softcapping"),
        ("gemma3", {"sliding_window": None}, "sliding_attention, but there is no window"),
        ("gemma3", {"rope_parameters": {"rope_theta": 1.0}}, r"has \['rope_theta'\], not kinds"),
        ("gemma3", {"layer_types": ["full_attention"]}, "for each of 6 layers"),
        ("olmo2", {"head_dim": 12}, r"mis-shaped .*k_norm\.weight"),
    ],
)
def test_configs_of_other_families_are_checked(pair, tmp_path, variant, changes, message):
    source = shutil.copytree(pair(variant).folder, tmp_path / "source")
    edit_config(source, **changes)
    with pytest.raises(ValueError, match=message):
        open_directory(source)


def test_a_tied_model_may_store_its_head(pair, tmp_path):
    source = shutil.copytree(pair("llama-gqa-tied").folder, tmp_path / "tied")
    plain = convert(str(source), tmp_path / "plain")

    def store_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    edit_tensors(source, store_head)
    assert convert(str(source), tmp_path / "stored")["digest"] == plain["digest"]
    edit_tensors(source, lambda tensors: tensors["lm_head.weight"][3].mul_(1.001))
    with pytest.raises(ValueError, match=r"says tie_word_embeddings, but lm_head\.weight differs"):
        open_directory(source)


def test_an_untied_model_must_store_its_head(pair, source):
    edit_tensors(source, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"missing lm_head\.weight"):
        open_directory(source)


def test_pickled_weights_are_refused(source):
    torch.save(load_file(source / WEIGHTS), source / "pytorch_model.bin")
    (source / WEIGHTS).unlink()
    with pytest.raises(
        ValueError, match=r"only pickled weights \['pytorch_model\.bin'\].*can run code"
    ):
        open_directory(source)
    (source / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="no safetensors files"):
        open_directory(source)


def test_stray_weights_without_an_index_are_refused(source):
    (source / WEIGHTS).rename(source / "model-00001-of-00002.safetensors")
    with pytest.raises(
        ValueError, match=r"neither model\.safetensors nor model\.safetensors\.index"
    ):
        open_directory(source)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights_are_refused(source, keep):
    whole = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or incomplete.*fetch it"):
        open_directory(source)


def test_integers_for_weights_are_refused(source, tmp_path):
    def quantise(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int8)

    edit_tensors(source, quantise)
    with pytest.raises(ValueError, match=r"up_proj\.weight is stored as I8.*dequantised first"):
        convert(str(source), tmp_path / "made")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_broken_json_is_refused(source, text):
    for name in ("config.json", "model.safetensors.index.json"):
        before = (source / name).read_bytes() if (source / name).exists() else None
        (source / name).write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=f"{name}.*(is not JSON|must hold a JSON object)"):
            open_directory(source)
        (source / name).unlink() if before is None else (source / name).write_bytes(before)
    for index in ({}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {}}):
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"no weight_map|do not match its config"):
            open_directory(source)


def test_another_folder_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json: it is not a Hugging Face model"):
        open_directory(tmp_path)


def test_the_tokenizer_is_carried_over(source, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}!"
    tokenizer.save_pretrained(source)
    (source / "secret.txt").write_text("not ours")
    convert(str(source), tmp_path / "made")
    carried = cola_jax.load_tokenizer(tmp_path / "made")
    assert carried("ab cab").input_ids == tokenizer("ab cab").input_ids
    chat = [{"role": "user", "content": "ab"}]
    assert carried.apply_chat_template(chat, tokenize=False) == "ab!"
    assert not list((tmp_path / "made").rglob("secret.txt"))


def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 3, "<|end|>": 4}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


@pytest.fixture
def hub(source, tmp_path, monkeypatch):
    """A cache as `snapshot_download` leaves it, with one model."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    shutil.move(source, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_hub_ids_are_found_and_their_commit_recorded(pair, hub, tmp_path, revision):
    metadata = convert("someone/tiny", tmp_path / "made", revision=revision)
    assert metadata["origin"] == {"kind": "hub", "name": "someone/tiny", "revision": COMMIT}
    here = json.loads((pair("llama-gqa").checkpoint / "cola.json").read_text())
    assert metadata["digest"] == here["digest"]


def test_hub_ids_that_are_not_to_be_had_are_refused(hub):
    with pytest.raises(ValueError, match=r"someone/other \(revision default\) could not be had"):
        open_hub("someone/other", None)
    with pytest.raises(ValueError, match=r"someone/tiny \(revision v2\) could not be had"):
        open_hub("someone/tiny", "v2")
    shutil.rmtree(hub / "snapshots" / COMMIT)
    with pytest.raises(ValueError, match="someone/tiny"):
        open_hub("someone/tiny", None)


def stops_of(folder, tmp_path):
    convert(str(folder), tmp_path / "stops", overwrite=True)
    return stop_tokens(tmp_path / "stops")


def test_stop_tokens_come_from_the_first_that_names_them(source, tmp_path):
    """The generation config, then the config, then its text part, then the tokenizer."""
    generation = source / "generation_config.json"
    make_tokenizer().save_pretrained(source)
    for found, expected in ((7, (7,)), ([9, 2, 9], (2, 9)), (0, (0,))):
        generation.write_text(json.dumps({"eos_token_id": found}))
        assert stops_of(source, tmp_path) == expected
    for found in ({}, {"eos_token_id": None}, {"eos_token_id": []}):
        generation.write_text(json.dumps(found))
        edit_config(source, eos_token_id=[5, 3])
        assert stops_of(source, tmp_path) == (3, 5)
        edit_config(source, eos_token_id=...)
        assert stops_of(source, tmp_path) == (4,)
    generation.unlink()
    edit_config(source, eos_token_id=6)
    assert stops_of(source, tmp_path) == (6,)
    assert read_stop_tokens(source, {"text_config": {"eos_token_id": [1, 106]}}) == (1, 106)


@pytest.mark.parametrize("found", ["2", True, -1, 2.0, [1, "2"], [None], {}, ""])
def test_stop_tokens_that_are_no_ids_are_refused(source, found):
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": found}))
    with pytest.raises(
        ValueError, match=r"eos_token_id of generation_config\.json must be a token"
    ):
        open_directory(source)
    (source / "generation_config.json").unlink()
    edit_config(source, eos_token_id=found)
    with pytest.raises(ValueError, match=r"eos_token_id of config\.json must be a token id or"):
        open_directory(source)


def test_digests_are_those_of_the_weights_alone(pair, source, tmp_path):
    """One different bit shows, another file name or order does not."""
    one = convert(str(source), tmp_path / "one")["digest"]
    edit_tensors(source, lambda tensors: tensors["model.norm.weight"][:1].mul_(1 + 2**-22))
    assert convert(str(source), tmp_path / "two")["digest"] != one
    assert np.isfinite(np.asarray(cola_jax.load(tmp_path / "two").norm)).all()
