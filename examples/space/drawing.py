# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A verdict and its evidence as HTML. What posts, files and models say is text there, never markup."""

import base64
import html
import io

from PIL import Image

SHOWN_SIDE = 480  # pixels of a picture's longer side at most
SHOWN_REM = 15
PARTS = {"picture": "no picture", "text": "no text", "neighbours": "no neighbours"}
BEFORE = "last time"
CHANGED = 0.005  # of a probability that is shown with two digits
CSS = """
.mm { font-variant-numeric: tabular-nums; line-height: 1.45; overflow-wrap: break-word; }
.mm h3 { margin: 1.1rem 0 .3rem; font-size: 1rem; } .mm p { margin: .3rem 0; }
.mm .faint { opacity: .75; font-size: .85rem; }
.mm .wide { overflow-x: auto; } .mm table { border: 0 !important; border-collapse: collapse; margin: .2rem 0 .6rem; }
.mm th, .mm td { padding: .2rem .6rem; text-align: left; vertical-align: baseline; }
.mm tr { border: 0 !important; }
.mm th, .mm td { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.mm th { font-weight: 600; font-size: .85rem; } .mm th:first-child, .mm td:first-child { padding-left: 0 !important; }
.mm .n { text-align: right; white-space: nowrap; } .mm .task td { padding-top: .7rem; font-weight: 600; }
.mm .decided { font-weight: 700; color: var(--color-accent); } .mm .up { color: #b4540a; } .mm .down { color: #2b6cb0; }
.dark .mm .up { color: #fdba74; } .dark .mm .down { color: #93c5fd; }
.mm .label { min-width: 7rem; max-width: 14rem; }
.mm .track { display: block; height: .3rem; border-radius: 2px; background: var(--border-color-primary); }
.mm .track i { display: block; height: 100%; border-radius: 2px; background: var(--color-accent); }
.mm .post { display: flex; flex-wrap: wrap; gap: .8rem 1.2rem; align-items: flex-start; }
.mm .seen { position: relative; } .mm .seen img { display: block; width: 100%; height: auto; }
.mm .seen svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.mm .words { flex: 1 1 14rem; line-height: 1.9; } .mm .words span { padding: .1rem .2rem; border-radius: .2rem; }
.mm details { margin-top: .8rem; } .mm summary { cursor: pointer; font-weight: 600; }
.mm.error { border-left: .25rem solid #c2410c; padding: .5rem .8rem; background: var(--background-fill-secondary); }
"""


def escaped(value) -> str:
    """As text of HTML that no template of the page takes for one of its own, either."""
    found = html.escape(str(value))
    return found.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def error_page(message: str) -> str:
    """What went wrong, in words."""
    return f'<div class="mm error" role="alert">{escaped(message)}</div>'


def verdict_page(found: dict, tasks: list[dict], picture: Image.Image | None, before: dict | None = None) -> str:
    """A verdict and its evidence.

    Args:
        found: see `explanation.explain`. tasks: of the model.
        picture: that the boxes in `found` are of. before: another `found`, whose verdict is compared with this one.
    """
    parts = [part for part in PARTS if found["without"][part] is not None]
    blocks = [
        _verdict_table(found, tasks, parts, before),
        _post(found, picture),
        _neighbours(found["neighbours"]),
        _experts(found["experts"], tasks),
    ]
    return f'<div class="mm">{"".join(blocks)}</div>'


def _verdict_table(found: dict, tasks: list[dict], parts: list[str], before: dict | None) -> str:
    """A row per label: its score now, last time, and without each part."""
    others = {BEFORE: before["verdict"]} if before else {}
    others |= {PARTS[part]: found["without"][part] for part in parts}
    head = "".join(f'<th class="n">{name}</th>' for name in others)
    rows = []
    for task in tasks:
        name = task["name"]
        decided, scores = found["decisions"][name], _scores(task, found["verdict"])
        is_number = not isinstance(found["verdict"][name], dict)
        said = "" if is_number else f": {_decision(decided)}"
        if before and before["decisions"][name] != decided and not is_number:
            said += f' <span class="faint">(last time {_decision(before["decisions"][name])})</span>'
        rows.append(f'<tr class="task"><td colspan="{2 + len(others)}">{escaped(name)}{said}</td></tr>')
        chosen = decided if isinstance(decided, list) else [decided]
        for label, score in scores.items():
            cells = "".join(_difference(score, _scores(task, other)[label]) for other in others.values())
            bar = "" if is_number else f'<span class="track"><i style="width:{100 * score:.1f}%"></i></span>'
            marked = " decided" if label in chosen and not is_number else ""
            shown = "value" if is_number else escaped(label)
            rows.append(f'<tr><td class="label{marked}">{shown}{bar}</td><td class="n">{score:.2f}</td>{cells}</tr>')
    return f'<div class="wide"><table><tr><th></th><th class="n">now</th>{head}</tr>{"".join(rows)}</table></div>'


def _decision(decided) -> str:
    labels = decided if isinstance(decided, list) else [decided]
    return escaped(", ".join(labels) or "none of these")


def _scores(task: dict, verdict: dict) -> dict[str, float]:
    scores = verdict[task["name"]]
    return scores if isinstance(scores, dict) else {task["name"]: scores}


def _difference(now: float, other: float) -> str:
    """The other score, and how far it is from the one now."""
    apart = other - now
    if abs(apart) < CHANGED:
        return f'<td class="n"><span class="faint">{other:.2f}</span></td>'
    return f'<td class="n">{other:.2f} <span class="{"up" if apart > 0 else "down"}">{apart:+.2f}</span></td>'


def _post(found: dict, picture: Image.Image | None) -> str:
    """Picture and words with HIMA's attention."""
    boxed = [region for region in found["regions"] or () if region["box"]]
    said = []
    if found.get("strange_picture"):
        said.append("The picture was left out of account: it is unlike every reference post's.")
    elif picture is not None and not boxed:
        said.append("This vision encoder's regions have no place in the picture.")
    said.append(
        "Colour shows where the model looked within the post, not why a task came out as it did. The columns “no …” "
        "do: they are the verdict with that part taken away, and how far it is from the one now."
    )
    shown = "" if picture is None else _seen(picture, boxed)
    most = max([word["attention"] for word in found["words"]], default=0) or 1
    words = " ".join(
        f'<span style="background:rgba(255,106,0,{0.55 * word["attention"] / most:.2f})">{escaped(word["word"])}</span>'
        for word in found["words"]
    )
    text = f'<div class="words">{words}</div>' if words else ""
    return f'<h3>Where it looked</h3><div class="post">{shown}{text}</div><p class="faint">{" ".join(said)}</p>'


def _seen(picture: Image.Image, boxed: list[dict]) -> str:
    width, height = picture.size
    most = max([region["attention"] for region in boxed], default=0) or 1
    boxes = []
    for region in boxed:
        left, top, right, bottom = region["box"]
        share = region["attention"]
        boxes.append(
            f'<rect x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="#ff6a00" '
            f'fill-opacity="{0.7 * share / most:.3f}"><title>{share:.1%} of the attention</title></rect>'
        )
    overlay = (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="attention over the picture">{"".join(boxes)}</svg>'
    )
    rem = SHOWN_REM * min(1, width / height)  # that wide, the picture is at most that high
    image = f'<img src="{picture_url(picture)}" alt="the post\'s picture">'
    return f'<div class="seen" style="width:min({rem:.1f}rem,100%)">{image}{overlay}</div>'


def picture_url(picture: Image.Image) -> str:
    """The picture, made small, as a `data:` URL."""
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _neighbours(found: dict) -> str:
    """The reference posts that were near, by picture and by text."""
    tables = []
    for modality, posts in found.items():
        if posts:
            rows = "".join(
                f"<tr><td>{escaped(post['id'])}</td><td class='n'>{post['similarity']:.2f}</td>"
                f"<td>{_labels(post['labels'])}</td></tr>"
                for post in posts
            )
            near = "picture" if modality == "image" else modality
            tables.append(
                f'<table><tr><th>near by {near}</th><th class="n">cosine</th><th>known labels</th></tr>{rows}</table>'
            )
    if not tables:
        return ""
    return f'<h3>Reference posts nearby</h3><div class="wide post">{"".join(tables)}</div>'


def _labels(labels: dict) -> str:
    said = [f"{escaped(task)}: {_label(label)}" for task, label in labels.items()]
    return "; ".join(said) or '<span class="faint">none</span>'


def _label(label) -> str:
    return f"{label:.2f}" if isinstance(label, float) else _decision(label)


def _experts(experts: dict, tasks: list[dict]) -> str:
    """What each part of the model says by itself, and how much it is heard; folded up."""
    if not experts:
        return ""
    tables = []
    for task in tasks:
        of_task = experts[task["name"]]
        said = {name: _scores(task, {task["name"]: expert["says"]}) for name, expert in of_task.items()}
        labels = list(next(iter(said.values())))
        head = "".join(f'<th class="n">{escaped(label)}</th>' for label in labels)
        rows = "".join(
            f'<tr><td>{escaped(name)}</td><td class="n">{expert["weight"]:.2f}</td>'
            + "".join(f'<td class="n">{said[name][label]:.2f}</td>' for label in labels)
            + "</tr>"
            for name, expert in of_task.items()
        )
        tables.append(f'<table><tr><th>{escaped(task["name"])}</th><th class="n">weight</th>{head}</tr>{rows}</table>')
    return f'<details><summary>Who said what: the experts</summary><div class="wide">{"".join(tables)}</div></details>'
