"""notebooks/quickstart.ipynb: it runs, and what is committed are the outputs of such a run."""

import base64
import io
import re
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from dreamer.run.paths import pretrained_names

LARGEST = 1 << 20  # bytes
LEAST_PICTURES = 5  # two episodes, the losses, the dream and the truth beside it
TRAINING = "FRAMES = 2800\n"


@pytest.fixture(scope="module")
def path(request):
    return request.config.rootpath / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook(path):
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    return found


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def shown(notebook, kind):
    """What is displayed in one type, in the order of the cells."""
    return [x["data"][kind] for x in outputs(notebook) if kind in x.get("data", {})]


def text(notebook):
    return "".join(o.get("text", "") for o in outputs(notebook) if o["output_type"] == "stream")


def check(notebook):
    """Everything is shown that the notebook promises."""
    assert [o for o in outputs(notebook) if o["output_type"] == "error"] == []
    assert len(shown(notebook, "image/png")) >= LEAST_PICTURES
    html = "".join(shown(notebook, "text/html"))
    (video,) = map(base64.b64decode, re.findall(r"data:image/gif;base64,([^\"]+)", html))
    with Image.open(io.BytesIO(video)) as image:
        assert getattr(image, "n_frames", 1) > 3
    assert "return: 2\n" in text(notebook)  # of the trained agent


def test_the_committed_outputs_are_small_and_name_no_folder(notebook, path):
    check(notebook)
    assert path.stat().st_size < LARGEST
    assert re.findall(r"/(?:tmp|work|home)\b", text(notebook)) == []
    assert "evaluation return 2.00" in text(notebook)  # of the one that is trained there


def test_every_cell_was_run_in_order(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_it_names_agents_and_pages_that_exist(notebook, repository):
    source = "\n".join(cell.source for cell in notebook.cells)
    names = set(re.findall(r"pretrained/(\w+)", source))
    assert "memory" in names and names <= set(pretrained_names())
    pages = re.findall(r"`(docs/\w+\.md)`", source)
    assert pages and all((repository / page).is_file() for page in pages)


def executed(notebook, folder, frames):
    """The notebook after a run in a folder of its own, with a training of that length."""
    copy = nbformat.from_dict(notebook)
    sources = [cell for cell in copy.cells if TRAINING in cell.source]
    assert len(sources) == 1
    sources[0].source = sources[0].source.replace(TRAINING, f"FRAMES = {frames}\n")
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(copy, timeout=1200, kernel_name="python3", resources=resources).execute()
    return copy


@pytest.fixture
def importable(monkeypatch, repository):
    """A kernel finds this checkout, and this interpreter's kernel is used."""
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin", prepend=":")


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_it_runs_with_a_short_training(notebook, tmp_path):
    check(executed(notebook, tmp_path, frames=450))


@pytest.mark.long
@pytest.mark.usefixtures("importable")
def test_it_runs_as_it_is_and_the_agent_learns(notebook, tmp_path):
    done = executed(notebook, tmp_path, frames=2800)
    check(done)
    assert "evaluation return 2.00" in text(done)
