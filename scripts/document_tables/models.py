"""Tables of published models, and of the sizes of ours."""

import parameters

from document_tables import committed, markdown, study


def published_tables() -> str:
    """Returns the geometry of published tables, of their vocabularies' codes and of a random table."""
    found = {one["name"]: one["rows"] for one in committed.read("probes/geometry-published.json")}
    together = zip(*(found[name] for name in ("loose", "anisotropy", "edit_distance", "unseen")), strict=True)
    rows = [
        (
            loose[0],
            *(f"{round(number, 3) + 0.0:.3f}" for number in (loose[-1], anisotropy[1], *cosines[1:4])),
            f"{unseen[1]} of {unseen[2]}",
        )
        for loose, anisotropy, cosines, unseen in together
    ]
    headers = ("embedding", "loose morph@5", "mean cosine of random pairs", "of one word's spellings", "of one stem")
    return markdown.table((*headers, "of unrelated words", "unseen words near a part"), rows)


def graft() -> str:
    """Returns the residuals of a graft and its losses, before any step and after some, beside the other arms'."""
    found = committed.read("graft/smollm2.json")
    arms, fits = found["arms"], found["fits"]
    measures = dict.fromkeys(what for fit in fits.values() for what in fit)
    rows = [
        (what, *(f"{fits[arm][what]:.4f}" if what in fits.get(arm, {}) else "" for arm in arms)) for what in measures
    ]
    for at in zip(*(result["held out"] for result in arms.values()), strict=True):
        rows.append((f"held-out loss after {at[0][0]} steps", *(f"{loss:.4f}" for _, loss in at)))
    return markdown.table(("of the graft", *(f"`{arm}`" for arm in arms)), rows)


def graft_fits() -> str:
    """Returns what fits by other weights leave, and the losses of the model that begins with them."""
    keys = ("weights", "stretch", "factor", "unexplained by occurrence", "mean length over the table's", "loss")
    return markdown.table(
        keys, [tuple(map(str, map(fit.get, keys))) for fit in committed.read("graft/fits.json")["fits"]]
    )


def parameters_of_sizes() -> str:
    """Returns the parameters of the paper's size and of the largest, counted on the models."""
    rows = []
    for size in ("124m", "1558m"):
        for arm in study.BASELINES:
            counts = parameters.count(size, arm)
            rows.append((size, f"`{arm}`", *(f"{counts[group]:,}" for group in parameters.GROUPS)))
    return markdown.table(("size", "arm", *parameters.GROUPS), rows, left=2)


TABLES = {
    "published-tables": published_tables,
    "graft": graft,
    "graft-fits": graft_fits,
    "parameters": parameters_of_sizes,
}
