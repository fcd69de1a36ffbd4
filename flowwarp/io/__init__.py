"""Reading and writing of files: flow, images, video, weights. No other package decodes media."""
