"""Layer costs: the cost of paths, and the tables that are refused."""

import json
import math

import pytest

from cola_jax.errors import InputError
from cola_jax.layer_costs import MLP_WEIGHTS, LayerCosts, part_fractions, read_layer_costs
from cola_jax.params import layer_axes, shapes
from cola_jax.path import parse_path
from tests import oracle

PARTS = ((0.5, 0.75), (1.0, 2.0))


def test_cost_of_a_path_is_its_length_by_default():
    assert [LayerCosts(4).of(path) for path in ((), (0, 3), (1, 1, 1, 2, 0))] == [0, 2, 5]
    assert LayerCosts(4).total == 4


def test_cost_of_a_path_does_not_depend_on_the_order():
    costs = LayerCosts(3, (0.1, 0.2, 0.3))
    assert costs.of((0, 1, 2)) == costs.of((2, 1, 0)) == costs.total
    assert costs.of((2, 2)) == 0.6


def test_cost_of_steps_is_that_of_their_parts_whatever_their_share():
    costs = LayerCosts(2, (1.0, 2.5), PARTS)
    path = parse_path("0a,0m,1,1*0.5,1m*0.25", 2, max_length=5)
    assert costs.of(path) == 0.5 + 0.75 + 2.5 + 2.5 + 2
    assert costs.layers(path) == pytest.approx(0.5 + 0.75 + 1 + 1 + 0.8)
    halves = LayerCosts(2, (1.0, 2.5))
    assert halves.of(parse_path("0a,1m", 2)) == 0.5 + 1.25
    assert LayerCosts(2).of(parse_path("0a,1m", 2)) == 1


def test_length_of_whole_layers_is_their_number():
    length = LayerCosts(3, (1.0, 2.0, 3.0)).layers(parse_path("0-2,2,1*0.5", 3))
    assert (length, type(length)) == (5, int)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (((1, 2),), "there are 1 pairs of costs of parts, but the model has 2 layers"),
        (((1, 2), (3,)), r"the costs of the parts of layer 1 are \(3,\): give two, of its attent"),
        (((1, 2), 3.0), "the costs of the parts of layer 1 are 3.0"),
        (((1, 2), (0, 3)), "the cost of attention 1 is 0: give milliseconds above 0"),
        (((1, math.nan), (1, 3)), "the cost of mlp 0 is nan"),
    ],
)
def test_costs_of_parts_that_are_not_pairs_of_positive_numbers_are_refused(parts, message):
    with pytest.raises(InputError, match=message):
        LayerCosts(2, parts=parts)


@pytest.mark.parametrize("variant", oracle.FIRST)
def test_part_fractions_divide_the_weights_of_a_layer(pair, variant):
    config = pair(variant).ours.config
    costs = part_fractions(config)
    assert len(costs) == config.num_layers
    assert all(0 < attention < 1 and 0 < mlp < 1 for attention, mlp in costs)
    for kind in config.kinds:
        axes = layer_axes(kind)
        of_width = {name for name in axes if {"F", "E", "X"} & set(axes[name].split())}
        assert of_width <= MLP_WEIGHTS
    if not config.layer_input and not any(kind.output_scales for kind in config.kinds):
        assert {round(sum(each), 9) for each in costs} == {1}


def test_part_fractions_count_the_experts_of_a_token(pair):
    config = pair("qwen2-moe").ours.config
    kind, width = config.kinds[0], config.width
    found = {name: math.prod(shape) / config.num_layers for name, shape in shapes(config).items()}
    assert kind.experts_per_token < kind.experts
    experts = 3 * width * kind.expert_width * kind.experts_per_token
    mlp = sum(n for name, n in found.items() if name in MLP_WEIGHTS and "expert_" not in name)
    outside = {"embedding", "head", "norm", *MLP_WEIGHTS}
    attention = sum(n for name, n in found.items() if name not in outside)
    share = attention / (attention + mlp + experts)
    assert part_fractions(config)[0] == pytest.approx((share, 1 - share))


@pytest.mark.parametrize("bad", [0, -1.5, math.nan, math.inf, 1e300, 10**400, True, "3", None, [1]])
def test_costs_that_are_not_positive_numbers_are_refused(bad):
    with pytest.raises(InputError, match=r"the cost of layer 1 is .*: give milliseconds above 0"):
        LayerCosts(3, (1.0, bad, 1.0))


def test_read_layer_costs_takes_a_list_or_a_measurement(tmp_path):
    file = tmp_path / "costs.json"
    for content in ([1, 2.5], {"milliseconds": [1, 2.5], "model": "abc"}):
        file.write_text(json.dumps(content))
        assert read_layer_costs(file, 2, "abc") == LayerCosts(2, (1, 2.5))
    assert read_layer_costs(None, 2, "abc") == LayerCosts(2)


def test_read_layer_costs_of_parts_takes_those_of_the_file_or_shares(tmp_path):
    file = tmp_path / "costs.json"
    file.write_text("[1, 2]")
    shares = [[0.25, 0.75], [0.5, 0.5]]
    read = read_layer_costs(file, 2, "abc", shares)
    assert read == LayerCosts(2, (1, 2), ((0.25, 0.75), (1.0, 1.0)))
    assert read_layer_costs(None, 2, "abc", shares).of_parts == ((0.25, 0.75), (0.5, 0.5))
    file.write_text(json.dumps({"milliseconds": [1, 2], "parts": PARTS}))
    assert read_layer_costs(file, 2, "abc", shares) == LayerCosts(2, (1, 2), PARTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2, 3]", "there are 3 layer costs, but the model has 2 layers"),
        ("[1, NaN]", "the cost of layer 1 is nan"),
        ("[1, 2", "cannot be read"),
        ("{}", "cannot be read .*milliseconds"),
        ('{"milliseconds": 3}', "a list of milliseconds by layer belongs here, not 3"),
        ('"1,2"', "a list of milliseconds by layer belongs here"),
        ('{"milliseconds": [1, 2], "parts": 3}', "a list of pairs of milliseconds by layer"),
        ('{"milliseconds": [1, 2], "parts": [1, 2]}', "the parts of layer 0 are 1: give two"),
        ('{"milliseconds": [1, 2], "parts": [[1, 2], [1, "2"]]}', "the cost of mlp 1 is '2'"),
        (
            '{"milliseconds": [1, 2], "model": "xyz"}',
            "does not belong to this model: its model is xyz, here it is abc. Measure this model",
        ),
    ],
)
def test_read_layer_costs_refuses(tmp_path, content, message):
    file = tmp_path / "costs.json"
    file.write_text(content)
    with pytest.raises(InputError, match=rf"costs\.json.*{message}"):
        read_layer_costs(file, 2, "abc")
