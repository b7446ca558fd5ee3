"""The arguments of the harness's model `cola`."""

import pytest

from cola_jax.deploy.model_args import ModelArguments, join_path, read_arguments


def test_read_arguments_takes_values_and_text():
    """The harness passes numbers and flags, where text alone was given."""
    values = {"checkpoint": "m", "path": 7, "max_length": 64, "add_bos_token": True, "tensor": 2}
    text = {name: str(value) for name, value in values.items()}
    wanted = ModelArguments(checkpoint="m", path="7", max_length=64, add_bos_token=True, tensor=2)
    assert read_arguments(values) == read_arguments(text) == wanted
    assert read_arguments({"checkpoint": "m", "path": [0, 1]}).path == "0,1"
    assert read_arguments({"checkpoint": "m", "memory_budget": "2GB"}).devices.budget == 2 * 10**9


@pytest.mark.parametrize(("given", "size"), [(1, None), ("auto", None), ("auto:4", None), (3, 3)])
def test_read_arguments_batch_size(given, size):
    """1 is what the harness passes where none is given."""
    assert read_arguments({"checkpoint": "m", "batch_size": given}).batch_size == size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_lenght": 4}, r"no argument 'max_lenght' \(did you mean max_length\?\): it takes"),
        (
            {"trust_remote_code": True},
            "no argument 'trust_remote_code': it takes checkpoint",
        ),
        ({"checkpoint": None}, "needs either checkpoint=MODEL"),
        ({"pretrained": "n"}, "needs either checkpoint=MODEL"),
        ({"path": "0-3", "router": "r"}, "both name the paths"),
        ({"dtype": "int4"}, "dtype: Input should be 'float32'.*got 'int4'"),
        ({"max_gen_toks": "many"}, "max_gen_toks: .*valid integer.*got 'many'"),
        ({"data": "0"}, "data must be at least 1"),
        ({"memory_budget": "lots"}, "'lots' is not a size"),
        ({"max_length": 0}, "max_length: .*greater than 0"),
        ({"add_bos_token": "perhaps"}, "add_bos_token: .*valid boolean"),
    ],
)
def test_read_arguments_refuses(given, message):
    with pytest.raises(ValueError, match=message):
        read_arguments({"checkpoint": "m"} | given)


def test_check_device():
    """`cuda:0` is what the harness passes where none is given."""
    for device in (None, "cuda:0", "cpu"):
        ModelArguments(checkpoint="m", device=device).check_device("cpu")
    ModelArguments(checkpoint="m", device="cuda:1").check_device("gpu")
    with pytest.raises(ValueError, match=r"'cuda', but JAX runs on cpu here.*JAX_PLATFORMS"):
        ModelArguments(checkpoint="m", device="cuda").check_device("cpu")


@pytest.mark.parametrize(
    ("argument", "joined"),
    [
        ("checkpoint=m,path=0-5,7,7,8-29", "checkpoint=m,path=0-5+7+7+8-29"),
        ("path=0-5,(6-7)x2,dtype=float32,data=1", "path=0-5+(6-7)x2,dtype=float32,data=1"),
        ("path='0-5,7',data=1", "path='0-5+7',data=1"),
        ('{"path": "0-5,7"}', '{"path": "0-5,7"}'),
        ("--include_path=0-5,7", "--include_path=0-5,7"),
        ("--tasks", "--tasks"),
    ],
)
def test_join_path(argument, joined):
    assert join_path(argument) == joined


def test_read_arguments_takes_a_joined_path():
    given = {"checkpoint": "m", "path": "0-5+(6-7)x2"}
    assert read_arguments(given).path == "0-5,(6-7)x2"
