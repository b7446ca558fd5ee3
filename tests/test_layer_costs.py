"""Layer costs: the cost of paths, and the tables that are refused."""

import json
import math

import pytest

from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts, read_layer_costs


def test_cost_of_a_path_is_its_length_by_default():
    assert [LayerCosts(4).of(path) for path in ((), (0, 3), (1, 1, 1, 2, 0))] == [0, 2, 5]
    assert LayerCosts(4).total == 4


def test_cost_of_a_path_does_not_depend_on_the_order():
    costs = LayerCosts(3, (0.1, 0.2, 0.3))
    assert costs.of((0, 1, 2)) == costs.of((2, 1, 0)) == costs.total
    assert costs.of((2, 2)) == 0.6


@pytest.mark.parametrize("bad", [0, -1.5, math.nan, math.inf, 1e300, True, "3", None, [1]])
def test_costs_that_are_not_positive_numbers_are_refused(bad):
    with pytest.raises(InputError, match=r"the cost of layer 1 is .*: give milliseconds above 0"):
        LayerCosts(3, (1.0, bad, 1.0))


def test_read_layer_costs_takes_a_list_or_a_measurement(tmp_path):
    file = tmp_path / "costs.json"
    for content in ([1, 2.5], {"milliseconds": [1, 2.5], "model": "abc"}):
        file.write_text(json.dumps(content))
        assert read_layer_costs(file, 2, "abc") == LayerCosts(2, (1, 2.5))
    assert read_layer_costs(None, 2, "abc") == LayerCosts(2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2, 3]", "there are 3 layer costs, but the model has 2 layers"),
        ("[1, NaN]", "the cost of layer 1 is nan"),
        ("[1, 2", "cannot be read"),
        ("{}", "cannot be read .*milliseconds"),
        ('{"milliseconds": 3}', "a list of milliseconds by layer belongs here, not 3"),
        ('"1,2"', "a list of milliseconds by layer belongs here"),
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
