"""`python -m vpvae_jax`: see `main`."""

from vpvae_jax.main import main

if __name__ == "__main__":
    main()
