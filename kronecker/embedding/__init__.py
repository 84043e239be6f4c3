"""From bytes to vectors, exactly: the code, the product and the layers."""
