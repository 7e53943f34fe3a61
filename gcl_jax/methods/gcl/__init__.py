"""GCL: contrast by several meta labels, then segmentation with few labels."""
