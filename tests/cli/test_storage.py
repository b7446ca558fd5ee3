"""Every command on emulated buckets that fail some requests."""

import json

import pytest

import cola_jax
from cola_jax import checkpoint, files
from cola_jax.cli.main import main
from cola_jax.engine.actor import ModelPlace
from cola_jax.engine.devices import Devices
from cola_jax.engine.model import ModelHandle
from cola_jax.formats import cache
from cola_jax.runs.run import Run
from cola_jax.storage import path_of
from tests import tiny

# aiohttp would rather have a large body in pieces
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Sending a large body")]


@pytest.fixture
def url(bucket, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """A folder of a bucket with the tiny checkpoint and a file of questions."""
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))
    url = bucket.folder()
    main(["convert", str(tiny_checkpoint.parent / "theirs"), f"{url}/model"])
    assert f"{url}/model: 5 layers" in capsys.readouterr().out
    questions = tiny.write_questions(tmp_path / "task.jsonl", 20)
    files.write_whole(f"{url}/task.jsonl", questions.read_bytes())
    return url


def test_a_checkpoint_on_a_url_is_downloaded_once(bucket, url, tiny_checkpoint, refused, capsys):
    model, wanted = f"{url}/model", cola_jax.load(tiny_checkpoint)
    with bucket.counted() as first:
        assert (cola_jax.load(model).embedding == wanted.embedding).all()
    with bucket.counted() as second:
        assert cola_jax.load_tokenizer(model).eos_token == "</s>"
    assert second == {"GET": 1}  # its metadata
    assert first["GET"] > 20
    place = ModelPlace.of(ModelHandle(model), Devices(data=1))  # as sent to other machines
    assert (place.source, place.find()) == (model, cache.find(model))
    (entry,) = cache.cached_models()
    assert entry.layers == 5
    source = tiny_checkpoint.parent / "theirs"
    assert "exists already: pass --overwrite" in refused("convert", source, model)
    main(["convert", str(source), model, "--overwrite", "--dtype", "bfloat16"])
    assert checkpoint.read_metadata(cache.find(model))["dtype"] == "bfloat16"
    files.write_whole(f"{model}/notes.txt", b"theirs")
    assert "holds notes.txt, which is not" in refused("convert", source, model, "--overwrite")
    command = ["evaluate", "--task", f"{url}/task.jsonl", "--output", f"{url}/run", "--model"]
    files.write_whole(f"{model}/cola.json", b"{}")
    assert f"{model}/cola.json cannot be read (layout: Field required" in refused(*command, model)
    assert f"{url}/none has no cola.json: write a" in refused(*command, f"{url}/none")
    assert "nowhere: create it" in refused(
        *command, model, "--output", f"{bucket.scheme}://nowhere/x"
    )


def test_every_command_runs_on_urls(bucket, url, capsys, tmp_path):
    common = ["--model", f"{url}/model", "--task", f"{url}/task.jsonl", "--limit", "12"]
    common += ["--held-out", "8", "--batch-size", "6"]

    def run(command, name, *flags):
        capsys.readouterr()
        task = common if command != "generate" else common[:2]
        main([command, *task, "--output", f"{url}/{name}", *flags])
        return capsys.readouterr().out

    # the client of GCS waits for seconds before it tries again
    with bucket.answering(failing=0.05 if bucket.scheme == "s3" else 0.01):
        for i in range(2):
            run("search", f"search-{i}", "--simulations", "6", "--seed", str(i))
        run("search", "search-0", "--simulations", "8", "--seed", "0")  # extended
        run("evaluate", "evaluate", "--random", "3")
        run("scan", "scan", "--longest-block", "1")
        assert "0-4" in run("generate", "generate", "--prompt", "sun moon", "--max-new-tokens", "3")
        search = f"{url}/search-0"
        few = ["--generations", "1", "--offspring", "2", "--first", "3", "--finalists", "2"]
        run("static", "static", *few)
        run("menu", "menu", "--runs", search, "--size", "2", "--candidates", "3")
        distill = ["distill", "--model", f"{url}/model", "--task", f"{url}/task.jsonl"]
        main(
            [*distill, "--run", search, "--output", f"{url}/router", "--epochs", "1", "--data", "1"]
        )
        main(["export", *common[:2], "--path", "0-1,3-4", "--output", f"{url}/hf"])
        recipe = ["--format", "mergekit", "--output", f"{url}/path.yaml"]
        main(["export", *common[:2], "--path", f"{url}/static/static.json", *recipe])
        main(["report", search, f"{url}/search-1", "--page", f"{url}/both.html"])
        main(["report", search, "--polar", f"{url}/polar.json"])
        for name in ("evaluate", "scan", "static", "menu"):
            main(["report", f"{url}/{name}"])
        main(["demo", *common[:2], "--simulations", "1", "--output", f"{url}/demo"])
        capsys.readouterr()
        main(["status", search, "--json"])
    progress = json.loads(capsys.readouterr().out)
    assert (progress["state"], progress["done"]) == ("finished", 12)
    folder = path_of(url)
    assert {"both.html", "both.md", "hf", "path.yaml", "polar.json"} <= {
        file.name for file in files.matching(folder, "*")
    }
    assert json.loads(files.read_bytes(folder / "hf" / "config.json"))["num_hidden_layers"] == 4
    for name, count in (("search-0", 12), ("evaluate", 12), ("scan", 12), ("demo", 24)):
        assert Run(folder / name).questions(["question"]).num_rows == count
        assert files.matching(folder / name / "unfinished", "*") == []
    kept = {file.name for file in files.matching(folder / "search-0", "*")}
    assert {"run.json", "results.json", "report.html", "report.md"} <= kept
