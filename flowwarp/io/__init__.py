"""Reading and writing of files: flow, images, video, weights. The only package that decodes."""
