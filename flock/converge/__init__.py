"""The converge engine: recipes, resources and runs of one machine; knows nothing of the network."""
