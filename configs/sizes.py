"""Named model sizes: the four of GPT-2, and smaller models of the same architecture."""

SIZES = {
    name: {"model.layers": layers, "model.heads": heads, "model.d_model": width, "model.context": context}
    for name, layers, heads, width, context in [
        ("nano", 4, 4, 128, 256),
        ("micro", 4, 4, 256, 512),
        ("tiny", 6, 6, 384, 512),
        ("30m", 8, 8, 512, 1024),
        ("124m", 12, 12, 768, 1024),
        ("350m", 24, 16, 1024, 1024),
        ("774m", 36, 20, 1280, 1024),
        ("1558m", 48, 25, 1600, 1024),
    ]
}
