"""A selection as a list to fill in, file,label, and beside it a page that shows the images and fills it in.

    data/selections/<name>.parquet → to_label.csv, to_label.html

The page holds the images themselves, is one file, and needs no network.
"""

import base64
import csv
import importlib
import io
import subprocess
from html import escape
from pathlib import Path
from typing import Any

from pipeline import params, paths, repro
from pipeline.errors import Refusal
from pipeline.labeling.selections import named, set_images
from pipeline.scratch import write_atomically

LARGEST = 192  # pixels of the longer side of an image in the page; smaller ones are enlarged by whole numbers
PAGE = """<!doctype html>
<meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5em; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(13em, 1fr)); gap: 1em; }}
figure {{ margin: 0; }} img {{ image-rendering: {rendering}; max-width: 100%; }}
figcaption {{ overflow-wrap: anywhere; font-size: 12px; }} input {{ width: 11em; }}
</style>
<h1>{title}</h1>
<p>Fill in what you know and save; leave the rest empty. Then <code>contrail label {list}</code>.
<button>save {list}</button></p>
<datalist id="classes">{classes}</datalist>
<main>{figures}</main>
<script>
document.querySelector("button").onclick = () => {{
  const quoted = text => /[",\\n\\r]/.test(text) ? `"${{text.replaceAll('"', '""')}}"` : text;
  const rows = [...document.querySelectorAll("input")].map(i => [i.dataset.file, i.value.trim()].map(quoted).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["file,label\\n", rows.join("\\n"), "\\n"], {{ type: "text/csv" }}));
  link.download = "{list}";
  link.click();
}};
</script>
"""
FIGURE = (
    '<figure><img src="data:image/png;base64,{image}" alt=""><figcaption>{rank}. {name}</figcaption>'
    '<input list="classes" data-file="{name}" aria-label="label of {name}"></figure>'
)


def select(name: str | None, images: int | None, out: Path, root: Path) -> list[str]:
    """Bring a selection up to date and write its list and its page; what to say of it, line by line.

    images: how many, from now on; None: as params.yaml says. Refusal: rows of `out` wait to be merged, or the stage
    fails.
    """
    if out.exists() and (waiting := read(out)):
        raise Refusal(
            f"{out.name} has {len(waiting)} images to label: fill it in for `contrail label {out.name}`, or remove it"
        )
    name = named(name, root)
    if images is not None:
        set_images(name, images, root)
    command = repro.dvc("--wait-for-lock", "repro", f"select@{name}")
    if subprocess.run(command, cwd=root, env=repro.environment(), check=False).returncode:
        raise Refusal(f"select@{name} failed, as said above: there is no new {out.name}")
    values = params.read(root / "params.yaml")
    files = chosen(root / paths.selection(name))
    write(out, [(file, "") for file in files])
    page = out.with_suffix(".html")
    write_atomically(page, sheet(files, root / paths.dataset(values["selections"][name]["dataset"]), out.name).encode())
    words = f"{len(files)} images to label are in {out.name}, best first; {page.name} shows them, and can fill it in"
    secret = [f"{page.name} holds the images, and this study is private: keep it here"] if values["private"] else []
    return [words, *secret, f"then: contrail label {out.name}"]


def chosen(table: Path) -> list[str]:
    """The ids of a selection, the best first."""
    import pyarrow.parquet as pq

    return pq.read_table(table, columns=["id"])["id"].to_pylist()


def read(file: Path) -> list[tuple[str, str]]:
    """The rows of a list, (file, label), no blanks around a label; Refusal if it is none."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if list(rows.fieldnames or [])[:2] == ["file", "label"]:
                return [(row["file"], (row["label"] or "").strip()) for row in rows if row["file"]]
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{file} cannot be read: {error}") from error
    raise Refusal(f"{file} is no list of images to label: its first line must be `file,label`")


def write(file: Path, rows: list[tuple[str, str]]) -> None:
    """A list, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "label"), *rows])
    write_atomically(file, text.getvalue().encode())


def sheet(files: list[str], dataset: Path, name: str) -> str:
    """The page of the images `files` of a prepared data set; it saves the list as `name`."""
    prepared = importlib.import_module("stages.datasets._prepared").Prepared(dataset)
    rows = {identity: row for row, identity in enumerate(prepared.ids)}
    small = max(prepared.images.canvas) < LARGEST
    figures = [
        FIGURE.format(rank=rank, name=escape(file), image=_png(prepared.images.image(rows[file])))
        for rank, file in enumerate(files, start=1)
    ]
    return PAGE.format(
        title=f"{len(files)} images to label",
        rendering="pixelated" if small else "auto",
        list=escape(name),
        classes="".join(f'<option value="{escape(label)}">' for label in prepared.classes),
        figures="\n".join(figures),
    )


def _png(pixels: Any) -> str:
    """An image uint8 (h, w, 3) as text, its longer side LARGEST or somewhat less."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if (times := LARGEST // max(image.size)) > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
