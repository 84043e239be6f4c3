"""Tables of the corpora behind the results."""

from document_tables import committed, markdown


def corpora() -> str:
    """Returns what each corpus behind the results is made of."""
    rows = []
    for corpus in committed.read("corpora.json"):
        for name, part in corpus["parts"].items():
            shares = (
                f"{100 * part[split]['bytes'] / total['bytes']:.1f} %" for split, total in corpus["splits"].items()
            )
            rows.append((f"`{corpus['name']}`", name, part["text"], part["licence"], part["get"], *shares))
    headers = ("corpus", "part", "what it is", "licence", "where to get it", "of training bytes", "of held-out bytes")
    return markdown.table(headers, rows, left=5)


def corpora_of_results() -> str:
    """Returns which results are from which corpus, with the sha256 of its one file or of its text."""
    rows = [
        (
            found["files"],
            f"`{corpus['name']}`",
            f"`{(corpus['file_sha256'] or corpus['text_sha256'])[:16]}`",
            found["known"],
        )
        for corpus in committed.read("corpora.json")
        for found in corpus["results"]
    ]
    return markdown.table(("results", "corpus", "sha256 begins", "how we know"), rows, left=4)


TABLES = {
    "corpora": corpora,
    "corpora-of-results": corpora_of_results,
}
