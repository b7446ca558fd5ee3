"""`Front`: the best of the paths that `cola static` measured, for a highest cost."""

import math

import pytest

import cola_jax
from cola_jax.deploy.front import Front
from cola_jax.errors import InputError
from cola_jax.layer_costs import LayerCosts
from cola_jax.runs.estimates import CHANGE, CHOSEN, CORRECT, MODEL, Estimate
from cola_jax.runs.path_results import length_estimate, time_estimates
from cola_jax.runs.results import Results, write_results

COSTS = LayerCosts(6, (1.0, 1.0, 2.0, 2.0, 3.0, 1.0))  # 10 ms in all
PATHS = {
    (0, 1, 2, 3, 4, 5): (0.50, None),
    (0, 1, 2, 3, 5): (0.44, (-0.2, 0.1)),  # 7 ms
    (0, 1, 2, 3): (0.46, (-0.2, 0.1)),  # 6 ms
    (0, 1, 5): (0.30, (-0.4, -0.1)),  # 3 ms
    (0, 1, 4, 5): (0.46, (-0.2, 0.1)),  # 6 ms
    (0, 1, 2, 3, 3, 4, 5): (0.52, (-0.1, 0.2)),  # 12 ms
}


@pytest.fixture
def write(tmp_path):
    """Write the results of `cola static`, with times or without, and return its directory."""

    def write_static(paths=PATHS, timed=True, command="static", **settings):
        estimates = []
        for path, (correct, interval) in paths.items():
            group = MODEL if interval is None else cola_jax.format_path(path)
            estimates.append(length_estimate(group, path, COSTS))
            estimates += time_estimates(group, path, COSTS) if timed else []
            note = CHOSEN if interval is None else ""
            estimates.append(Estimate(CORRECT, group, correct, n=100, note=note))
            if interval is not None:
                p = 0.5 if interval[0] < 0 < interval[1] else 0.01
                change = correct - 0.5
                bounds = (*interval, p, p, 100)
                estimates.append(Estimate(CHANGE, group, change, "points", *bounds))
        settings |= {"command": command, "model": "m"}
        run = {"settings": settings, "start": {"num_layers": 6}}
        write_results(Results(estimates, run), tmp_path / "results.json")
        (tmp_path / "static.json").write_text("{}")
        return tmp_path

    return write_static


def test_choose_takes_the_best_path_within_a_time(write):
    """Of equals the cheapest; and the model where it fits, unless another is shown to be better."""
    front = write()
    assert cola_jax.choose(front, 3) == (0, 1, 5)
    assert cola_jax.choose(front / "static.json", 6.5) == (0, 1, 2, 3)
    assert cola_jax.choose(str(front), 9.99) == (0, 1, 2, 3)
    assert cola_jax.choose(front, 50) == (0, 1, 2, 3, 4, 5)
    better = PATHS | {(0, 1, 2, 3, 3, 4, 5): (0.60, (0.02, 0.2))}
    assert cola_jax.choose(write(better), 50) == (0, 1, 2, 3, 3, 4, 5)
    assert cola_jax.choose(write(better), 11) == (0, 1, 2, 3, 4, 5)


def test_a_share_of_the_model_is_by_times_or_else_by_layers(write):
    assert Front.read(write()).best("60%").path == (0, 1, 2, 3)
    assert Front.read(write()).best("3 ms").path == (0, 1, 5)
    by_layers = Front.read(write(timed=False))
    assert by_layers.best("60%").path == (0, 1, 5)
    assert by_layers.best("84%").path in ((0, 1, 2, 3), (0, 1, 4, 5))
    assert by_layers.budget("84%").facts() == {
        "budget": "a cost of at most 84%, by the number of layers",
        "cost": "4 layers (66.7 %) of 6 layers (100.0 %)",
        "chosen for it": "the best of 4 paths within the budget on held-out questions, whose "
        "accuracy is that of the best; intervals hold for all that were measured",
    }


def test_times_of_another_machine_are_taken_in_place_of_those_of_the_search(write, tmp_path):
    (tmp_path / "costs.json").write_text("[1, 1, 9, 9, 1, 1]")
    for timed in (True, False):
        front = write(timed=timed)
        assert cola_jax.choose(front, 4, layer_costs=tmp_path / "costs.json") == (0, 1, 4, 5)
    (tmp_path / "costs.json").write_text("[1, 1, 9]")
    with pytest.raises(InputError, match="there are 3 layer costs, but the model has 6"):
        cola_jax.choose(write(), 4, layer_costs=tmp_path / "costs.json")


def test_parts_cost_what_the_search_knows_of_them_at_other_times(write, tmp_path):
    """Half of their layers, or the shares by which they were searched."""
    file = tmp_path / "costs.json"
    file.write_text("[1, 1, 1, 1, 1, 4]")
    path = cola_jax.parse_path("0-4,5a", 6)
    paths = {(0, 1, 2, 3, 4, 5): (0.50, None), path: (0.46, (-0.2, 0.1))}
    assert cola_jax.choose(write(paths), 7, layer_costs=file) == path
    found = Front.read(write(paths, part_costs=[[0.5, 0.5]] * 5 + [[0.75, 0.25]]), file)
    assert found.best_within(8).cost == 8
    by_layers = Front.read(write(paths, timed=False))
    assert [each.cost for each in by_layers.candidates] == [5.5, 6]


def test_a_path_without_accuracy_is_no_candidate(write):
    front = write(PATHS | {(0, 1, 5): (math.nan, (-0.4, -0.1))})
    with pytest.raises(InputError, match=r"results.json: a path has no accuracy on held-out"):
        cola_jax.choose(front, 6)


def test_what_chooses_no_path_is_refused(write, tmp_path):
    front = write()
    with pytest.raises(
        InputError,
        match=r"no path of .* costs at most 2 ms \(20.0 %\): the cheapest costs 3 ms "
        r"\(30.0 %\) \(0-1,5\); allow as much",
    ):
        cola_jax.choose(front, 2)
    for milliseconds in (0, -1.0, "3", True, math.nan):
        with pytest.raises(InputError, match="milliseconds must be a number above 0"):
            cola_jax.choose(front, milliseconds)
    for source in (5, None, [(0, 1)]):
        with pytest.raises(InputError, match="given by the directory of `cola static`, not by"):
            cola_jax.choose(source, 3)
    with pytest.raises(InputError, match=r"layer_costs must be a file .* it is \[1, 2\]"):
        cola_jax.choose(front, 3, layer_costs=[1, 2])
    with pytest.raises(InputError, match="neither a share such as 80% nor a time"):
        Front.read(front).best("fast")
    by_layers = write(timed=False)
    with pytest.raises(InputError, match=r"no times of layers: give layer_costs="):
        cola_jax.choose(by_layers, 3)
    with pytest.raises(InputError, match="--max-cost 3ms is a time: give --layer-costs"):
        Front.read(by_layers).best("3ms")
    with pytest.raises(InputError, match="made by 'menu', but a front is that of `cola static`"):
        Front.read(write(command="menu"))
    with pytest.raises(InputError, match=r"has no results.json beside it"):
        Front.read(tmp_path / "elsewhere" / "static.json")
