"""Runs the notebook, stores its outputs, and writes the page of the site: ``python docs/site/notebook.py``."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1]
NOTEBOOK, PAGE = DOCS / "notebook.ipynb", DOCS / "notebook.md"
NOTE = "*Written by `docs/site/notebook.py` from [notebook.ipynb](notebook.ipynb), which you can run yourself.*"


def render(notebook: nbformat.NotebookNode) -> tuple[str, dict[str, bytes]]:
    """The page as Markdown, and its pictures by path relative to docs/."""
    parts, pictures = [], {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```py\n{cell.source}\n```")
        for output in cell.outputs:
            if "text" in output:
                parts.append(f"```\n{output.text.rstrip()}\n```")
            elif "image/png" in output.get("data", {}):
                name = f"figures/notebook-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output.data["image/png"])
                parts.append(f"![What the cell above draws]({name})")
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([title, NOTE, rest.strip(), *parts[1:]]) + "\n", pictures


def main() -> None:
    """Run it and write everything."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(DOCS.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which would differ on each run
    nbformat.write(notebook, NOTEBOOK)
    page, pictures = render(notebook)
    PAGE.write_text(page, encoding="utf-8")
    for name, png in pictures.items():
        (DOCS / name).write_bytes(png)


if __name__ == "__main__":
    main()
