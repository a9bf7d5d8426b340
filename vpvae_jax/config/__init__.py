"""The settings of a run and the objects that are assembled from them."""
