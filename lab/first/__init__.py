"""The first rooms: the scenes, training and measurements behind the embedded generators and segmenters of version 0.1."""
