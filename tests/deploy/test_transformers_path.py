"""`apply_path` and `remove_path`: transformers along a path, against `run_path` and `generate`."""

import copy
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

import cola_jax
from cola_jax import apply_path, remove_path
from cola_jax.deploy.transformers_path import AddShare
from cola_jax.path import pad_path, parse_path
from tests import oracle

NEW = 6  # tokens decoded; with the prompt, more than every window
POSITIONS = 13  # of all paths: one compilation for each model
PATHS = {kind: path for kind, path in oracle.PATHS.items() if kind != "identity"}
PARTS = parse_path("0m,0-1,2a,3m,3*0.5,(4-5)*0.25,5a*1.5", 6)
PATHS |= {"parts": PARTS, "parts in pairs": parse_path("0a,1m,1a,2,3,4*0.5,5m", 6)}
REPEAT = PATHS["repeat"]
SHARING = {  # layer 4 attends to the keys of layer 3, and layer 5 to those of 0
    "repeat": (0, 1, 0, 2, 2, 1, 3, 4, 5, 4, 5),
    "skip": (0, 2, 3, 5),
    "reordered": (0, 3, 5, 4, 2, 4, 1, 0),
    "without": (0, 1, 3, 3, 0),
    "parts": parse_path("0m,0-2,3m,3,4a*0.5,3m,4m,5,5m*1.5", 6),
}
# a plain family; windows and ropes by layer; recurrent layers; layers that share keys
FAST = "llama-gqa", "gemma3", "qwen3.5", "gemma4-e"
VARIANTS = [
    *FAST,
    *(pytest.param(v, marks=pytest.mark.slow) for v in oracle.VARIANTS if v not in FAST),
]
SLOW = [v for v in oracle.FIRST if v != "gemma3"]

# of transformers' own attributes, when PEFT reads them
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def made(variant="llama-gqa", **changes):
    """Return a model of transformers that a test may change."""
    family, fields = oracle.VARIANTS[variant]
    return oracle.random_model(family, **fields, **changes)


@pytest.fixture
def model():
    return made()


@pytest.fixture(scope="module")
def batch():
    return torch.from_numpy(oracle.random_ids(2).astype(np.int64))


def paths_of(variant):
    return [*(SHARING if variant == "gemma4-e" else PATHS).values()]


def ids_of(batch):
    return batch.numpy().astype(np.int32)


def logits(model, batch, **options):
    with torch.no_grad():
        return model(input_ids=batch, use_cache=False, **options).logits


def decoded(model, batch, **options):
    """Return greedy tokens [B, NEW]."""
    with torch.no_grad():
        out = oracle.generate_exactly(model, batch, NEW, **options)
    return out[:, batch.shape[1] :].numpy()


def state_of(model):
    """Return what `remove_path` restores: objects by name, and configs as texts."""
    configs = [m.config for m in model.modules() if hasattr(m, "config")]
    return {
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "parameters": [(name, id(parameter)) for name, parameter in model.named_parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "configs": [id(config) for config in configs],
        "values": [json.dumps(vars(c), sort_keys=True, default=repr) for c in configs],
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_apply_path_has_the_logits_of_run_path(pair, variant, batch):
    ours = pair(variant).ours
    model = made(variant)
    own = logits(model, batch, output_hidden_states=True)  # installs the hooks of such outputs
    before = state_of(model)
    for path in paths_of(variant):
        apply_path(model, path)
        expected = cola_jax.run_path(ours, ids_of(batch), pad_path(path, POSITIONS))
        assert oracle.relative_error(logits(model, batch), expected) < oracle.TOLERANCE
        np.testing.assert_array_equal(decoded(model, batch), decoded(model, batch, use_cache=False))
        remove_path(model)
        assert torch.equal(logits(model, batch), own)
        assert state_of(model) == before


@pytest.mark.parametrize(
    "variant", ["gemma3", *(pytest.param(v, marks=pytest.mark.slow) for v in SLOW)]
)
def test_apply_path_has_the_tokens_of_generate(pair, variant, batch):
    paths = paths_of(variant)
    out = cola_jax.generate(pair(variant).ours, ids_of(batch), paths, max_new_tokens=NEW)
    model = made(variant)
    for c, path in enumerate(paths):
        apply_path(model, path)
        np.testing.assert_array_equal(decoded(model, batch), np.asarray(out.tokens)[:, c])


def test_apply_path_shares_parameters(model):
    own = {id(parameter): parameter.nbytes for parameter in model.parameters()}
    apply_path(model, REPEAT)
    assert {id(parameter): parameter.nbytes for parameter in model.parameters()} == own
    layers = model.model.layers
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(len(REPEAT)))
    assert layers[1] is not layers[2]
    assert layers[1].mlp is layers[2].mlp
    assert layers[1].self_attn.q_proj is layers[2].self_attn.q_proj
    apply_path(model, "0,2,5")
    assert {id(parameter) for parameter in model.parameters()} < own.keys()


def test_apply_path_keeps_no_weights_and_no_cache_of_missing_parts(model, batch):
    apply_path(model, "0m,0,1a,1m,2*0.5")
    layers = model.model.layers
    names = [{name.partition(".")[0] for name, _ in layer.named_parameters()} for layer in layers]
    assert ["mlp" in of_layer for of_layer in names] == [True, True, False, True, True]
    assert ["self_attn" in of_layer for of_layer in names] == [False, True, True, False, True]
    with torch.no_grad():
        cache = model(input_ids=batch).past_key_values
    kept = [layer for layer in cache.layers if layer.keys is not None]
    assert [layer.keys.shape[-2] for layer in kept] == [batch.shape[1]] * 3
    assert layers[1].mlp.up_proj.weight is layers[0].mlp.up_proj.weight


def test_apply_path_adds_up_the_gradients_of_a_repeated_layer(batch):
    """Against explicit copies of the layers, in double precision."""
    shared = made("qwen3.5").double()
    copies = copy.deepcopy(shared)
    apply_path(copies, REPEAT)
    layers = copies.model.layers
    layers._modules = {name: copy.deepcopy(layer) for name, layer in layers.named_children()}
    apply_path(shared, REPEAT)
    originals = vars(shared.model)["_cola_path"].layers
    for model in (shared, copies):
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
    for i, layer in enumerate(originals):
        runs = [dict(layers[p].named_parameters()) for p, id in enumerate(REPEAT) if id == i]
        for name, parameter in layer.named_parameters():
            total = sum(run[name].grad for run in runs)
            torch.testing.assert_close(parameter.grad, total)
            assert parameter.grad.abs().max() > 0


def test_apply_path_replaces_an_earlier_path(model, batch):
    before = state_of(model)
    apply_path(model, "0,2,5")
    with pytest.raises(ValueError, match=r"names layer 6, but the model has layers 0\.\.5"):
        apply_path(model, "0-6")
    assert model.config.num_hidden_layers == 3  # still the path before
    apply_path(model, REPEAT)
    assert torch.equal(logits(model, batch), torch.tensor(oracle.logits(made(), batch, REPEAT)))
    remove_path(model)
    assert model.config.num_hidden_layers == 6
    assert state_of(model)["modules"] == before["modules"]
    with pytest.raises(ValueError, match="no path is applied"):
        remove_path(model)


def test_apply_path_takes_a_file(model, tmp_path):
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"path": "0,2,5", "num_layers": 6}))
    apply_path(model, str(file))
    assert len(model.model.layers) == 3
    file.write_text(json.dumps({"path": "0,2,5", "num_layers": 30}))
    with pytest.raises(ValueError, match="of a model of 30 layers, but the model has 6"):
        apply_path(model, str(file))


def test_apply_path_to_a_model_without_a_head(model, batch):
    apply_path(model.model, REPEAT)
    assert model.config.num_hidden_layers == len(REPEAT)
    expected = torch.tensor(oracle.logits(made(), batch, REPEAT))
    assert torch.equal(logits(model, batch), expected)


@pytest.mark.parametrize("name", ["llava-qwen2", pytest.param("smolvlm", marks=pytest.mark.slow)])
def test_apply_path_to_a_model_that_reads_pictures(seeing, name):
    from tests import pictures

    path = (0, 1, 1, 3, 2)
    model, processor = pictures.loaded(seeing(name))
    picture = pictures.rgb(pictures.picture(1))
    inputs = processor(text="<image>which of the sun?", images=[picture], return_tensors="pt")
    expected = pictures.logits(model, inputs, path)
    apply_path(model, path)
    with torch.no_grad():
        assert np.array_equal(model(**inputs, use_cache=False).logits, expected)
        limits = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
        cached = model.generate(**inputs, **limits)
        assert torch.equal(cached, model.generate(**inputs, **limits, use_cache=False))


def test_apply_path_changes_every_config_of_the_text_part(batch):
    """Of a model whose windows follow the layers."""
    family, fields = oracle.VARIANTS["gemma3"]
    text = {**oracle.SIZES, **fields, "model_type": family, "pad_token_id": 0}
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = transformers.Gemma3Config(text_config=text, vision_config=tower)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    oracle.randomise(model, 0)
    ids = batch.clamp(min=6)  # none of them a picture's
    apply_path(model, REPEAT)
    assert model.config.text_config.layer_types == [oracle.KINDS[layer] for layer in REPEAT]
    assert model.config.vision_config.num_hidden_layers == 2
    np.testing.assert_array_equal(decoded(model, ids), decoded(model, ids, use_cache=False))


@pytest.mark.parametrize("path", [REPEAT, PARTS], ids=["repeat", "parts"])
@pytest.mark.parametrize("variant", ["gemma3", "qwen3.5"])
def test_apply_path_with_a_static_cache(variant, path, batch):
    model = made(variant)
    apply_path(model, path)
    tokens = decoded(model, batch, cache_implementation="static")
    np.testing.assert_array_equal(tokens, decoded(model, batch))


@pytest.mark.parametrize("first", ["path", "model"])
def test_hidden_states_are_those_of_the_path(model, batch, first):
    """Whether transformers has installed its hooks before the path or not."""

    def count():
        with torch.no_grad():
            return len(model(input_ids=batch, output_hidden_states=True).hidden_states)

    if first == "model":
        assert count() == 7
    apply_path(model, REPEAT)
    assert count() == len(REPEAT) + 1
    remove_path(model)
    assert count() == 7


def test_hooks_of_a_layer_run_at_each_of_its_positions(model, batch):
    runs = []
    model.model.layers[4].register_forward_hook(lambda *_: runs.append("layer"))
    apply_path(model, REPEAT)  # runs layer 4 twice
    model.model.layers[0].register_forward_hook(lambda *_: runs.append("position"))
    logits(model, batch)
    assert runs == ["position", "layer", "layer"]
    remove_path(model)
    runs.clear()
    logits(model, batch)
    assert runs == ["layer"]


def test_hooks_of_a_layer_see_the_state_after_a_share_of_its_update(model, batch):
    seen = []
    model.model.layers[2].register_forward_hook(lambda *called: seen.append(called[2]))
    apply_path(model, "0-1,2*0.5")
    with torch.no_grad():
        states = model(input_ids=batch, output_hidden_states=True, use_cache=False).hidden_states
    assert torch.equal(model.model.norm(seen[0]), states[-1])
    assert not torch.equal(seen[0], states[-2])


def test_a_share_is_added_where_the_layer_ran():
    """Layers of a model on several devices are given a state of the device before theirs."""
    updated = AddShare(0.5)(torch.nn.Identity(), (torch.ones(2),), torch.ones(2, device="meta"))
    assert updated.device.type == "meta"


def test_remove_path_keeps_the_mode_of_the_model(model):
    apply_path(model, "0,2,5")
    model.train()
    remove_path(model)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("variant", ["llama-gqa", "gemma4-e"])
def test_a_copy_of_a_model_has_a_path_of_its_own(batch, variant):
    model = made(variant)
    own = logits(model, batch)
    apply_path(model, paths_of(variant)[0])
    along = logits(model, batch)
    other = copy.deepcopy(model)
    remove_path(other)
    assert torch.equal(logits(other, batch), own)
    assert torch.equal(logits(model, batch), along)


def test_apply_path_to_a_model_with_an_adapter(model, batch):
    """Which is trained at each position: PEFT puts it into modules that positions share."""
    apply_path(model, REPEAT)
    targets = ["q_proj", "up_proj"]
    adapted = get_peft_model(model, LoraConfig(target_modules=targets, init_lora_weights=False))
    layers = model.model.layers
    for part in ("self_attn.q_proj", "mlp.up_proj"):
        assert layers[1].get_submodule(part) is layers[2].get_submodule(part)
        assert layers[1].get_submodule(part).lora_A.default.weight.requires_grad
    along = logits(adapted, batch)
    with pytest.raises(
        ValueError, match=r"not .PeftModel.: give the model inside, such as get_base"
    ):
        remove_path(adapted)
    remove_path(adapted.get_base_model())
    apply_path(adapted.get_base_model(), REPEAT)
    assert torch.equal(logits(adapted, batch), along)


@pytest.mark.parametrize("path", [REPEAT, PARTS], ids=["repeat", "parts"])
@pytest.mark.parametrize("variant", ["llama-gqa", "gpt-oss"])  # whose attention has weights
def test_apply_path_to_an_offloaded_model(batch, variant, path):
    from accelerate import cpu_offload

    model = made(variant)
    apply_path(model, path)
    expected = decoded(model, batch)
    remove_path(model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    apply_path(model, path)
    np.testing.assert_array_equal(decoded(model, batch), expected)


def refusals():
    def whole(model):
        return torch.compile(model, backend="eager")

    def compiled(model):
        model.model.layers[2].self_attn.compile(backend="eager")
        return model

    def replaced(model):
        attention = model.model.layers[2].self_attn
        attention.forward = lambda *arguments, **options: type(attention).forward(attention)
        return model

    def wrapped(model):
        model.model.layers[2] = type("Wrapped", (torch.nn.Module,), {})()
        return model

    def unknown(model):
        sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 9}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))

    def adapted(model):
        return get_peft_model(model, LoraConfig(target_modules=["q_proj"]))

    yield "0,6", None, r"names layer 6, but the model has layers 0\.\.5"
    yield [0, 6], None, r"layer ids \[6\], but the model has layers 0\.\.5"
    yield "0,2b", None, "has '2b' where a layer id"
    yield [], None, "a path needs at least one layer"
    yield "0-", None, "where a layer id"
    yield np.array([0.0, 1.5]), None, "path holds float64, but ids are whole numbers"
    yield 3, None, "a path is a text such as 0-5,7,7,8-29 or a list of ids, not 3"
    yield "0,1", compiled, "compile after apply_path"
    yield "0,1", replaced, "forward of .LlamaAttention. is replaced by a function"
    yield "0,1", wrapped, "layers of this model are .*Wrapped., and not of transformers"
    yield "0,1", unknown, "no text decoders in this model of model_type 'gpt2'"
    yield "0,1", adapted, r"a model of transformers, not .PeftModel.: .* get_base_model\(\)"
    yield "0,1", whole, "not .OptimizedModule.: .* _orig_mod of torch.compile"


@pytest.mark.parametrize(("path", "change", "message"), list(refusals()))
def test_apply_path_refuses_before_any_change(model, path, change, message):
    model = change(model) if change else model
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        apply_path(model, path)
    assert state_of(model) == before


def test_apply_path_refuses_layers_before_those_whose_keys_they_share():
    model = made("gemma4-e")
    with pytest.raises(ValueError, match="runs layer 4, which attends to the keys and values of"):
        apply_path(model, (0, 4, 1, 2, 3, 5))
    with pytest.raises(ValueError, match="runs layer 4, which attends to the keys and values of"):
        apply_path(model, "0-2,3m,4")  # the MLP of layer 3 makes none
    apply_path(model, SHARING["repeat"])
    with pytest.raises(ValueError, match="runs layer 5, which attends to the keys and values of"):
        apply_path(model, (1, 2, 3, 5, 0))
    assert model.config.num_hidden_layers == len(SHARING["repeat"])


def test_apply_path_changes_nothing_when_it_fails(model, monkeypatch):
    apply_path(model, "0-5")  # installs the hooks of `output_hidden_states`
    remove_path(model)
    before = state_of(model)

    def fail(config, path, sharing, applied):
        applied.set(config, "num_hidden_layers", len(path))
        raise RuntimeError("a config that refuses")

    monkeypatch.setattr("cola_jax.deploy.transformers_path.follow", fail)
    with pytest.raises(RuntimeError, match="a config that refuses"):
        apply_path(model, REPEAT)
    assert state_of(model) == before


IMPORTED = """
import sys
import cola_jax
cola_jax.apply_path
print([name for name in ("torch", "transformers", "jax") if name in sys.modules])
"""


def test_import_of_apply_path_imports_no_framework():
    command = [sys.executable, "-c", IMPORTED]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
