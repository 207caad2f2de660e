"""How the embedded weights were made: progressive growing of the generator, training of the segmenter."""
