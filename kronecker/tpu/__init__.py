"""What the real TPU compiler makes of our programs, on a machine without a TPU."""

# The chips, each with its smallest topology that is a whole host, which is what the compiler asks for.  Here, so that a
# refused flag need not wait for JAX.
TOPOLOGIES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
