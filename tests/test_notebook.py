"""The notebook runs from top to bottom, and the page of the site is what it gave."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def test_the_page_is_what_the_notebook_gave():
    """Run ``python docs/site/notebook.py`` to bring both up to date."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("notebook_page", ROOT / "docs" / "site" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page, pictures = module.render(nbformat.read(NOTEBOOK, as_version=4))
    assert (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8") == page and len(pictures) == 3
    for name, png in pictures.items():
        assert (ROOT / "docs" / name).read_bytes() == png
    assert "on 4,000 bandits" in page and "on 1000 new bandits" in page


def test_it_runs(monkeypatch, tmp_path):
    """Short, in the interpreter of the tests; over sockets that are files, which nobody else can reach."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    folder = tmp_path / "kernels" / "ours"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "ours", "language": "python"}))
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("SNAIL_NOTEBOOK_UPDATES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")])
    where = str(tmp_path / "ipc")
    kernel = AsyncKernelManager(kernel_name="ours", kernel_spec_manager=specs, transport="ipc", ip=where)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(notebook, km=kernel, resources=resources, timeout=300).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    said = "".join(o.get("text", "") for o in outputs)
    assert "on 100 bandits; optimum: 6.66" in said
    assert said.count("times uniform attention") == 4
    assert not [o for o in outputs if o.output_type == "error"]
