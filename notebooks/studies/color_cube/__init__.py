"""The room of notebook 01: an autoencoder of colours from which red is deleted. Source document: Ex 2.9.1.

`data`: the RGB cube, its names and its training batches. `network`: the autoencoder. `regularizers`: losses on its
latent sphere. `regimes`: the objectives of training, and the choices that make sense together. `routing`: gradient
routing. `mappers`, `steering`: edits of its latents. `directions`: directions found after training, or at random.
`measures`: similarity of colours, errors, their correlation. `frontier`: removals of many networks at once, and how
selective they are. `planted`: an autoencoder whose red is known. `plots`, `figures.toml`, and `live` with `cube.js`:
what the notebook shows, and what it says to those who do not see it.
"""
